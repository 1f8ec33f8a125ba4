# SPDX-License-Identifier: Apache-2.0
"""Each p-value is held against what it must be: by hand, by a library, or by summing over every outcome."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_sidenet.calibration.pvalues import NUISANCE_LEVEL, betting, binomial, paired


def test_binomial_is_scipys():
    assert binomial(3, 500, 0.01) == pytest.approx(stats.binomtest(3, 500, 0.01, alternative="less").pvalue)
    assert binomial(0, 299, 0.01) == pytest.approx(0.99**299)
    assert binomial(0, 0, 0.01) == 1


@pytest.mark.parametrize("num_rows", [12, 30])
@pytest.mark.parametrize("limit", [0.05, 0.2, 0.0, -0.05, -0.2])
@pytest.mark.parametrize("lower_rate", [0.0, 0.03, 0.1, 0.3])
def test_paired_is_valid_by_summing_over_every_outcome(num_rows, limit, lower_rate):
    harmed_rate, helped_rate = (lower_rate, lower_rate - limit) if limit < 0 else (lower_rate + limit, lower_rate)
    for level in (0.01, 0.05, 0.2):
        rejected = 0.0
        for harmed in range(num_rows + 1):
            for helped in range(num_rows + 1 - harmed):
                if paired(harmed, helped, num_rows, limit) <= level:
                    rates = [harmed_rate, helped_rate, 1 - harmed_rate - helped_rate]
                    counts = [harmed, helped, num_rows - harmed - helped]
                    rejected += stats.multinomial.pmf(counts, num_rows, rates)
        assert rejected <= level


def test_paired_is_the_binomial_where_nobody_is_helped():
    for harmed in (0, 3, 6):
        assert paired(harmed, 0, 1200, 0.01) >= binomial(harmed, 1200, 0.01)
    # Where it decides, near the usual levels, they are nearly the same.
    assert paired(6, 0, 1200, 0.01) == pytest.approx(binomial(6, 1200, 0.01), rel=0.01)


def test_paired_sees_the_rows_that_are_helped():
    assert paired(20, 30, 1200, 0.01) < 0.01 < binomial(20, 1200, 0.01)
    # The normal approximation of the score test: (−10 − 12) / √(1200 · (2 · 0.0165 + …)) is about −3.1.
    assert paired(20, 30, 1200, 0.01) == pytest.approx(stats.norm.cdf(-3.1), rel=0.8)


@settings(max_examples=40, deadline=None)
@given(st.integers(50, 400), st.integers(0, 15), st.integers(0, 15), st.sampled_from([0.01, 0.03, 0.1, 0.0, -0.02]))
def test_more_harm_never_speaks_for_the_model(num_rows, harmed, helped, limit):
    here = paired(harmed, helped, num_rows, limit)
    # The interval of the nuisance parameter moves with the rows that are helped, so that side is exact to its level.
    assert paired(harmed + 1, helped, num_rows, limit) >= here
    assert paired(harmed, helped + 1, num_rows, limit) <= here * 1.05 + 2 * NUISANCE_LEVEL


def test_paired_at_a_limit_of_zero_is_nearly_a_sign_test():
    """As many rows helped as harmed say nothing, and no changed row less than that."""
    assert paired(0, 0, 500, 0.0) == 1
    assert paired(20, 20, 500, 0.0) == pytest.approx(stats.binomtest(20, 40, 0.5, alternative="less").pvalue, rel=0.02)
    assert paired(10, 30, 500, 0.0) == pytest.approx(stats.binomtest(10, 40, 0.5, alternative="less").pvalue, rel=0.5)
    assert paired(10, 30, 500, -0.1) > 0.9
    assert paired(10, 90, 500, -0.1) < 0.01


@pytest.mark.parametrize("limit", [0.03, 0.0, -0.03])
@pytest.mark.parametrize("helped_rate", [0.03, 0.05, 0.1])
def test_betting_rejects_a_true_hypothesis_at_most_as_often_as_it_may(helped_rate, limit):
    level, runs = 0.05, 600
    generator = np.random.default_rng(0)
    draws = generator.choice(
        [1, -1, 0], (runs, 400), p=[helped_rate + limit, helped_rate, 1 - 2 * helped_rate - limit]
    )
    rejected = sum(betting(torch.tensor(row), limit) <= level for row in draws)
    assert rejected <= stats.binom.ppf(0.999, runs, level)


def test_betting_by_hand():
    # First bet: mean 0, variance 1/4, so 0.1 / (0.25 + 0.01); a row of 0 gains 0.1 times that.
    assert betting(torch.zeros(1), 0.1) == pytest.approx(1 / (1 + 0.1 * 0.1 / 0.26))
    assert betting(torch.ones(50), 0.1) == 1
    assert betting(torch.zeros(2000), 0.01) < 1e-4
    assert betting(torch.zeros(0), 0.01) == 1


def test_betting_looks_at_no_row_before_it_bets():
    values = torch.tensor([0, 0, 1, 0, -1, 0, 0, 1])
    until = [betting(values[:n], 0.2) for n in range(1, 9)]
    # Wealth may be taken at any time, so more rows never take evidence back.
    assert all(later <= earlier for earlier, later in pairwise(until))
