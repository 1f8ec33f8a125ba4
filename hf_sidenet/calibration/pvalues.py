# SPDX-License-Identifier: Apache-2.0
"""p-values of "the risk is above its limit", small if the rows are evidence against it.

Each is valid for every number of rows: under the hypothesis, P(p ≤ δ) ≤ δ. Nothing is asymptotic.

* [`binomial`]: exact, on the number of harmed rows. Harmed rows alone bound an accuracy drop from above.
* [`paired`]: exact, on harmed and helped rows: the unconditional test of non-inferiority of paired proportions,
  ordered by Nam's score (Biometrics 53, 1997), with the nuisance parameter restricted to a confidence interval (Berger
  and Boos, JASA 89, 1994). Sharper than `binomial` if SideNets also correct errors of the MainNet.
* [`betting`]: the wealth of a gambler who bets on the paired differences against the hypothesis (Waudby-Smith and
  Ramdas, arXiv 2010.09686, §4; Ville's inequality).

The smaller of two p-values is not a p-value: choose the test beforehand.
"""

import math
from functools import lru_cache

import torch

from ..optional import require


TESTS = ("paired", "binomial", "betting")
# Part of δ spent on restricting the nuisance parameter to an interval, and number of cells to search it in.
NUISANCE_LEVEL = 1e-4
NUISANCE_CELLS = 256
# Outcomes rarer than this all count as tail outcomes.
NEGLIGIBLE = 1e-12
MAX_BET = 0.75


def binomial(num_bad: int, num_rows: int, limit: float) -> float:
    """Return P(Binomial(num_rows, limit) ≤ num_bad).

    Args:
        num_bad (`int`): number of rows with the loss.
        num_rows (`int`): number of rows.
        limit (`float`): risk under the hypothesis.
    """
    if num_rows == 0:
        return 1.0
    return float(_scipy_stats().binom.cdf(num_bad, num_rows, limit))


@lru_cache(maxsize=4096)
def paired(num_harmed: int, num_helped: int, num_rows: int, limit: float) -> float:
    """Return the exact p-value of P(harmed) − P(helped) ≥ limit.

    Args:
        num_harmed (`int`): number of rows that the MainNet gets right and the routed model wrong.
        num_helped (`int`): number of rows the other way around.
        num_rows (`int`): number of rows.
        limit (`float`): drop under the hypothesis; negative for a gain.
    """
    if num_rows == 0:
        return 1.0
    stats = _scipy_stats()
    numpy = require("numpy", "attach")
    observed = float(_score(numpy.float64(num_harmed), numpy.float64(num_helped), num_rows, limit))
    # The rate of helped rows is the nuisance parameter; its interval is Clopper and Pearson's.
    low = 0.0 if num_helped == 0 else float(stats.beta.ppf(NUISANCE_LEVEL / 2, num_helped, num_rows - num_helped + 1))
    high = (
        1.0
        if num_helped == num_rows
        else float(stats.beta.ppf(1 - NUISANCE_LEVEL / 2, num_helped + 1, num_rows - num_helped))
    )
    # Under the hypothesis, both rates, which differ by the limit, are ≥ 0 and sum to ≤ 1.
    least, most = max(0.0, -limit), (1 - limit) / 2
    if low >= most:
        return NUISANCE_LEVEL
    if high <= least:
        return 1.0
    low, high = max(low, least), min(high, most)
    edges = numpy.linspace(low, high, NUISANCE_CELLS + 1)
    most_helped = int(stats.binom.isf(NEGLIGIBLE, num_rows, high)) + 1
    helped = numpy.arange(most_helped + 1)
    bounds = _largest_harmed(helped, observed, num_rows, limit, numpy)
    # Fewer harmed and more helped rows are always at least as extreme, so within a cell the probability is largest for
    # the lowest rate of harmed rows and the highest rate of helped rows.
    helped_rate, harmed_rate = edges[1:, None], edges[:-1, None] + limit
    weights = stats.binom.pmf(helped, num_rows, helped_rate)
    inside = stats.binom.cdf(bounds, num_rows - helped, numpy.minimum(harmed_rate / (1 - helped_rate), 1.0))
    probability = (weights * numpy.where(bounds >= 0, inside, 0.0)).sum(1) + NEGLIGIBLE
    return min(1.0, float(probability.max()) + NUISANCE_LEVEL)


def betting(differences: torch.Tensor, limit: float) -> float:
    """Return the p-value of a mean ≥ limit, by betting on row after row.

    Args:
        differences (`torch.Tensor` of shape `(num_rows,)`):
            Values in [−1, 1], in an order fixed without looking at them.
        limit (`float`): mean under the hypothesis.
    """
    if len(differences) == 0:
        return 1.0
    values = differences.double()
    seen = torch.arange(1, len(values) + 1, dtype=torch.float64)
    # Before row t, from rows 1 … t − 1 and one pseudo-row: mean 0, variance 1/4.
    mean = (values.cumsum(0) / (seen + 1)).roll(1)
    mean[0] = 0.0
    variance = ((0.25 + ((values - mean) ** 2).cumsum(0)) / (seen + 1)).roll(1)
    variance[0] = 0.25
    gain = limit - mean
    bets = (gain / (variance + gain**2)).clamp(0.0, MAX_BET / (1 - limit))
    wealth = torch.log1p(bets * (limit - values)).cumsum(0)
    return min(1.0, math.exp(-max(0.0, wealth.max().item())))


def _score(harmed, helped, num_rows: int, limit: float):
    """Return Nam's score of P(harmed) − P(helped) = limit, small if the counts are evidence against it."""
    if limit < 0:
        return -_score(helped, harmed, num_rows, -limit)
    # Maximum-likelihood rate of helped rows under the hypothesis: the root of a quadratic.
    unchanged = num_rows - harmed - helped
    middle = 2 * limit * (helped + unchanged) - (harmed + helped) * (1 - limit)
    root = (middle**2 + 8 * num_rows * helped * limit * (1 - limit)) ** 0.5
    rate = (root - middle) / (4 * num_rows)
    variance = num_rows * (2 * rate + limit - limit**2)
    # At limit 0 without any changed row, the score is 0 / 0: no evidence.
    return (harmed - helped - num_rows * limit) / (variance + (variance == 0)) ** 0.5


def _largest_harmed(helped, observed: float, num_rows: int, limit: float, numpy):
    """Return, for each number of helped rows, the largest number of harmed rows at least as extreme; −1 if none."""
    low = numpy.full(helped.shape, -1)
    high = num_rows - helped
    while (low < high).any():
        middle = (low + high + 1) // 2
        # Rounding must not exclude the observed outcome itself.
        extreme = _score(middle.astype(float), helped.astype(float), num_rows, limit) <= observed + 1e-9
        low, high = numpy.where(extreme, middle, low), numpy.where(extreme, high, middle - 1)
    return numpy.maximum.accumulate(low)


def _scipy_stats():
    return require("scipy.stats", "attach")
