# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.measurement.metrics import (
    PAPER_BINS,
    accuracy,
    correct_rows,
    expected_calibration_error,
    reliability_bins,
)


NAN = float("nan")


def rows(max_size=50):
    row = st.tuples(st.floats(0, 1, width=32), st.booleans())
    return st.lists(row, min_size=1, max_size=max_size)


def tensors(pairs):
    return torch.tensor([c for c, _ in pairs]), torch.tensor([r for _, r in pairs])


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [-1.0, -2.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.75


def test_a_row_of_nan_is_wrong_whatever_its_label():
    logits = torch.tensor([[NAN, NAN], [NAN, NAN], [0.0, NAN], [1.0, 0.0]])
    assert correct_rows(logits, torch.tensor([0, 1, 1, 0])).tolist() == [False, False, False, True]


def test_accuracy_of_no_rows_is_nan():
    assert math.isnan(accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))


@pytest.mark.parametrize(("logits", "labels"), [((3, 2), (2,)), ((3, 2), (3, 1)), ((3, 2, 2), (3,))])
def test_accuracy_refuses_shapes_that_do_not_fit(logits, labels):
    with pytest.raises(ValueError, match="`logits` and `labels`"):
        accuracy(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_bins_by_hand():
    confidences = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.9, 1.0])
    correct = torch.tensor([True, False, True, True, True, False])
    bins, below = reliability_bins(confidences, correct, num_bins=4, low=0.2, high=1.0)
    assert below == 1
    assert [b.count for b in bins] == [1, 2, 0, 2]  # edges 0.2, 0.4, 0.6, 0.8, 1.0
    assert [(round(b.low, 6), round(b.high, 6)) for b in bins] == [(0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)]
    assert [bins[i].accuracy for i in (0, 1, 3)] == [0, 1, 0.5]
    assert [bins[i].confidence for i in (0, 1, 3)] == pytest.approx([0.3, 0.55, 0.95])
    assert math.isnan(bins[2].accuracy)
    ece = expected_calibration_error(confidences, correct, num_bins=4, low=0.2, high=1.0)
    assert ece == pytest.approx((1 * 0.3 + 2 * 0.45 + 2 * 0.45) / 5)


def test_a_bin_holds_its_upper_edge_and_the_first_its_lower():
    edges = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])
    bins, below = reliability_bins(edges, torch.ones(5, dtype=torch.bool), num_bins=4, low=0.2)
    assert [b.count for b in bins] == [2, 1, 1, 1]
    assert below == 0


def test_the_papers_bins():
    bins, below = reliability_bins(torch.tensor([0.15, 0.25, 0.95]), torch.tensor([True, True, False]), **PAPER_BINS)
    assert [b.count for b in bins] == [1, 0, 0, 0, 0, 0, 0, 1]
    assert below == 1
    value = expected_calibration_error(torch.tensor([0.15, 0.25]), torch.tensor([False, True]), **PAPER_BINS)
    assert value == pytest.approx(0.75)


def test_ece_without_rows_in_the_bins_is_nan():
    assert math.isnan(expected_calibration_error(torch.tensor([0.1]), torch.tensor([True]), **PAPER_BINS))


@pytest.mark.parametrize(
    ("confidences", "correct", "bins", "name"),
    [
        ([0.5, 1.5], [True, True], {}, "confidences"),
        ([0.5, NAN], [True, True], {}, "confidences"),
        ([0.5, -0.1], [True, True], {}, "confidences"),
        ([0.5, 0.9], [True, True], {"high": 0.8}, "confidences"),
        ([0.5], [True, True], {}, "confidences"),
        ([0.5], [True], {"num_bins": 0}, "num_bins"),
        ([0.5], [True], {"num_bins": 2.5}, "num_bins"),
        ([0.5], [True], {"low": 0.9, "high": 0.9}, "low"),
    ],
)
def test_impossible_values_are_refused(confidences, correct, bins, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        reliability_bins(torch.tensor(confidences), torch.tensor(correct), **bins)


@given(rows(), st.integers(1, 20))
def test_ece_is_a_fraction_and_every_row_is_in_one_bin(pairs, num_bins):
    confidences, correct = tensors(pairs)
    assert 0 <= expected_calibration_error(confidences, correct, num_bins) <= 1
    bins, below = reliability_bins(confidences, correct, num_bins, low=0.3)
    assert sum(b.count for b in bins) + below == len(pairs)


@given(rows().flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
def test_ece_does_not_depend_on_the_order_of_rows(both):
    first, second = (expected_calibration_error(*tensors(pairs)) for pairs in both)
    assert first == pytest.approx(second, abs=1e-12)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=9))
def test_ece_of_calibrated_answers_is_zero(eighths):
    """For each k, 8 rows of confidence k/8, k of them right."""
    confidences = torch.tensor([k / 8 for k in eighths for _ in range(8)])
    correct = torch.tensor([i < k for k in eighths for i in range(8)])
    assert expected_calibration_error(confidences, correct) == 0


@given(rows(), st.integers(1, 20))
def test_ece_equals_a_loop_over_rows(pairs, num_bins):
    confidences, correct = tensors(pairs)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64).float().tolist()
    total = 0
    for b in range(num_bins):
        inside = [(c, r) for c, r in pairs if edges[b] < c <= edges[b + 1] or (b == 0 and c == 0)]
        total += abs(sum(r for _, r in inside) - sum(c for c, _ in inside))
    assert expected_calibration_error(confidences, correct, num_bins) == pytest.approx(total / len(pairs), abs=1e-9)
