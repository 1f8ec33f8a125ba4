# SPDX-License-Identifier: Apache-2.0
"""Intervals of times cover what repeated measurements on a machine give."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.evaluation.exits import MIN_ROUNDS, time_intervals

from .test_exits import COSTS, evaluate, random_records


INDEX = torch.tensor([0] * 12 + [1] * 4 + [2] * 8)
ALL_AT_0 = torch.zeros(24, dtype=torch.long)


def interval(rounds, index=INDEX, **kwargs):
    (found,) = time_intervals(replace(COSTS, rounds=rounds), [index], 3, **kwargs)
    return found


def test_the_value_is_that_of_the_medians():
    expected = (12 * 0.5 + 4 * 0.75 + 8 * 1.25) / 24
    assert interval([]).value == interval([[0.6, 0.8, 1.3, 1.0]] * 3).value == pytest.approx(expected)


@pytest.mark.parametrize("count", range(MIN_ROUNDS))
def test_no_interval_from_too_few_rounds(count):
    found = interval([[0.5, 0.75, 1.25, 1.0]] * count)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    text = evaluate(random_records(0), replace(COSTS, rounds=[])).text()
    assert "nan" not in text


def test_a_machine_that_is_always_equally_fast_leaves_the_rows():
    found = interval([[0.5, 0.75, 1.25, 1.0]] * 5)
    assert found.low < found.value < found.high
    # All rows at one exit: nothing else could have happened.
    alone = interval([[0.5, 0.75, 1.25, 1.0]] * 5, ALL_AT_0)
    assert (alone.low, alone.high) == pytest.approx((0.5, 0.5))


def test_rounds_that_differ_widen_it():
    """Intervals over rows alone would make such rounds look different."""
    ratios = [0.34, 0.41, 0.48, 0.55, 0.7, 0.86]
    found = interval([[ratio, 1.0, 1.0, 1.0] for ratio in ratios], ALL_AT_0)
    assert found.low < 0.42
    assert found.high > 0.69
    # Slowing exit and MainNet alike makes no difference.
    same = interval([[0.5 * slow, slow, slow, slow] for slow in (1.0, 2.0, 7.0)], ALL_AT_0)
    assert (same.low, same.high) == pytest.approx((0.5, 0.5))


@given(st.lists(st.floats(0.1, 2.0), min_size=MIN_ROUNDS, max_size=9), st.integers(0, 5))
def test_it_stays_within_what_was_seen(ratios, seed):
    rounds = [[ratio, 1.0, 1.0, 1.0] for ratio in ratios]
    found = interval(rounds, ALL_AT_0, num_resamples=50, seed=seed)
    assert min(ratios) - 1e-9 <= found.low <= found.high <= max(ratios) + 1e-9
    assert found == interval(rounds, ALL_AT_0, num_resamples=50, seed=seed)
