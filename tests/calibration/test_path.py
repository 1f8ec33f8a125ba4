# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sidenet.calibration import find_path
from hf_sidenet.calibration.targets import TARGETS, AccuracyDrop
from hf_sidenet.measurement import replay

from .cases import costs, records


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(5, 300), st.sampled_from(["accuracy_drop", "selective_error", "disagreement"]))
def test_every_step_lowers_one_threshold_and_no_row_comes_back(num_sidenets, num_rows, name):
    rows = records(num_rows, num_sidenets=num_sidenets)
    temperatures = [1.0] * (num_sidenets + 1)
    path = find_path(rows, costs(num_sidenets).fractions("flops"), temperatures, TARGETS[name](0.1))
    assert path[0] == [1.0] * num_sidenets
    previous = replay(rows.exit_logits, path[0], temperatures)
    for before, after in pairwise(path):
        lower = [i for i in range(num_sidenets) if after[i] < before[i]]
        assert len(lower) == 1
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        exits = replay(rows.exit_logits, after, temperatures)
        assert (exits <= previous).all()
        assert (exits < previous).any()
        previous = exits
    assert (previous == 0).all()


def test_the_first_rows_to_leave_are_the_surest():
    rows = records(1000, num_sidenets=1)
    path = find_path(rows, [0.3, 1.0], [1.0, 1.0], AccuracyDrop(0.1), num_steps=10)
    left = replay(rows.exit_logits, path[1], [1.0, 1.0]) == 0
    sure = rows.exit_logits[:, 0].softmax(-1).amax(-1)
    assert left.sum() == 100
    assert sure[left].min() > sure[~left].max()


def test_a_sidenet_that_disagrees_is_used_last():
    rows = records(600, num_sidenets=2)
    # The first SideNet says the opposite of the MainNet, and is as sure.
    rows.exit_logits[:, 0] = rows.mainnet_logits.flip(-1) * 3
    rows.exit_logits[:, 1] = rows.mainnet_logits * 3
    path = find_path(rows, [0.3, 0.6, 1.0], [1.0] * 3, AccuracyDrop(0.1))
    until_the_second_is_done = [vector for vector in path if vector[0] == 1.0]
    assert (replay(rows.exit_logits, until_the_second_is_done[-1], [1.0] * 3) == 1).all()


@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_equal_confidences_leave_together(confidence):
    rows = records(50, num_sidenets=1)
    rows.exit_logits[:, 0] = torch.tensor([60.0, 0.0]) if confidence == 1.0 else torch.zeros(2)
    path = find_path(rows, [0.3, 1.0], [1.0, 1.0], AccuracyDrop(0.1))
    assert len(path) == 2
    assert (replay(rows.exit_logits, path[1], [1.0, 1.0]) == 0).all()


def test_neighboring_confidences_end_too():
    rows = records(40, num_sidenets=1)
    base = torch.tensor(0.75)
    steps = [base]
    for _ in range(39):
        steps.append(torch.nextafter(steps[-1], torch.tensor(1.0)))
    gap = torch.logit(torch.stack(steps).double())
    rows.exit_logits[:, 0] = torch.stack([gap, torch.zeros(40)], dim=1).float()
    path = find_path(rows, [0.3, 1.0], [1.0, 1.0], AccuracyDrop(0.1), num_steps=40)
    assert len(path) <= 41
    assert (replay(rows.exit_logits, path[-1], [1.0, 1.0]) == 0).all()
