# SPDX-License-Identifier: Apache-2.0
"""Percentile bootstrap over rows: how much would a number vary on other rows of the same kind?

A resample draws as many rows as there are, with replacement, which amounts to weighting every row by how often it was
drawn. A statistic is therefore a function of weights; its value on the data has all weights 1. The same seed gives the
same resamples, so statistics computed together are paired.

Limits: the interval covers the choice of test rows only, not another training run. It is a plain percentile interval:
for a statistic that is biased upward on few rows, such as the calibration error, the interval is too high.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn.functional import pad

from ..measurement.metrics import Bins, reliability_bins
from ..models.errors import ArgumentError


# Weights of shape (num_resamples, num_rows) in, values of shape (num_resamples, num_values) out.
Statistic = Callable[[torch.Tensor], torch.Tensor]
Key = TypeVar("Key", bound=Hashable)
# Weights held in memory at a time: 16 MiB.
CHUNK_ELEMENTS = 2**21


@dataclass(frozen=True)
class Interval:
    """Number with its interval, by default from the percentile bootstrap. NaN if undefined.

    Args:
        value (`float`): value on the rows themselves.
        low (`float`): lower end.
        high (`float`): upper end.
    """

    value: float
    low: float
    high: float


def bootstrap_intervals(
    statistics: Mapping[Key, Statistic],
    num_rows: int,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[Key, list[Interval]]:
    """Return intervals of several statistics, all on the same resamples.

    Args:
        statistics (`Mapping[Hashable, Callable]`):
            Each takes weights of shape `(num_resamples, num_rows)` and returns values of shape
            `(num_resamples, num_values)`. NaN values are ignored.
        num_rows (`int`): rows to draw from.
        num_resamples (`int`, *optional*, defaults to 1000): number of resamples.
        level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside the interval.
        seed (`int`, *optional*, defaults to 0): seed of the draws.

    Returns:
        `dict[Hashable, list[Interval]]`: for each statistic, one interval per value.

    Raises:
        ValueError: `num_rows` or `num_resamples` is < 1, or `level` is not in (0, 1).
    """
    for name, number in (("num_rows", num_rows), ("num_resamples", num_resamples)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ArgumentError(name, "must be an integer ≥ 1", number)
    if not 0 < level < 1:
        raise ArgumentError("level", "must be in (0, 1)", level)
    chunks: dict[Key, list[torch.Tensor]] = {name: [] for name in statistics}
    for weights in resample_weights(num_rows, num_resamples, seed):
        for name, statistic in statistics.items():
            chunks[name].append(statistic(weights))
    ones = torch.ones(1, num_rows, dtype=torch.float64)
    return {
        name: _intervals(statistic(ones)[0], torch.cat(chunks[name]), level) for name, statistic in statistics.items()
    }


def resample_weights(num_rows: int, num_resamples: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield how often each row is drawn in each resample, in chunks: float64 of shape `(chunk_size, num_rows)`."""
    generator = torch.Generator().manual_seed(seed)
    for size in chunk_sizes(num_rows, num_resamples):
        drawn = torch.randint(num_rows, (size, num_rows), generator=generator)
        one = torch.ones((), dtype=torch.float64).expand(size, num_rows)
        yield torch.zeros(size, num_rows, dtype=torch.float64).scatter_add_(1, drawn, one)


def chunk_sizes(num_rows: int, total: int) -> Iterator[int]:
    """Yield sizes of chunks of `total` vectors of length `num_rows`, such that chunks have bounded memory."""
    size = max(1, CHUNK_ELEMENTS // num_rows)
    for start in range(0, total, size):
        yield min(size, total - start)


def percentiles(samples: torch.Tensor, level: float) -> tuple[float, float]:
    """Return the ends of the middle `level` of `samples` of shape `(num_samples,)`, ignoring NaNs."""
    tail = (1 - level) / 2
    low, high = torch.nanquantile(samples, torch.tensor([tail, 1 - tail], dtype=samples.dtype)).tolist()
    return low, high


def _intervals(values: torch.Tensor, resampled: torch.Tensor, level: float) -> list[Interval]:
    # Column by column: torch.quantile rejects tensors of more than 16 million elements.
    columns = resampled.T.contiguous()
    return [
        Interval(value, *percentiles(column, level)) for value, column in zip(values.tolist(), columns, strict=True)
    ]


def weighted_means(columns: torch.Tensor) -> Statistic:
    """Return a statistic: the mean of each column.

    Args:
        columns (`torch.Tensor` of shape `(num_rows, num_columns)`): bools or numbers.
    """
    columns = columns.double()
    return lambda weights: weights @ columns / weights.sum(1, keepdim=True)


def weighted_mean_among(column: torch.Tensor, chosen: torch.Tensor) -> Statistic:
    """Return a statistic: the mean of a column over some rows, NaN if all their weights are 0.

    Args:
        column (`torch.Tensor` of shape `(num_rows,)`): bools or numbers.
        chosen (`torch.BoolTensor` of shape `(num_rows,)`): rows to average over.
    """
    both = torch.stack([column.double() * chosen, chosen.double()], 1)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        total, count = (weights @ both).unbind(1)
        return (total / count)[:, None]

    return statistic


def weighted_calibration_error(
    confidences: torch.Tensor, correct: torch.Tensor, num_bins: int, low: float, high: float
) -> Statistic:
    """Return a statistic: the expected calibration error, see [`~metrics.expected_calibration_error`]."""
    member = _membership(confidences, correct, num_bins, low, high)
    gaps = member * (correct.double() - confidences.double())[:, None]
    inside = member.sum(1)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        return ((weights @ gaps).abs().sum(1) / (weights @ inside))[:, None]

    return statistic


def weighted_auroc(confidences: torch.Tensor, correct: torch.Tensor) -> Statistic:
    """Return a statistic: the AUROC of confidence, the probability that a correct row has a higher confidence than a
    wrong one, with ties counting half. NaN if all rows are correct or all are wrong.

    Args:
        confidences (`torch.Tensor` of shape `(num_rows,)`): confidence of each answer.
        correct (`torch.BoolTensor` of shape `(num_rows,)`): whether it is correct.
    """
    order = confidences.argsort()
    ranked, correct = confidences[order].contiguous(), correct[order]
    right, wrong = correct.double(), (~correct).nonzero().squeeze(1)
    below = torch.searchsorted(ranked, ranked[wrong])
    up_to = torch.searchsorted(ranked, ranked[wrong], right=True)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        weights = weights[:, order]
        right_below = pad((weights * right).cumsum(1), (1, 0))  # (num_resamples, num_rows + 1)
        total, wrong_weights = right_below[:, -1:], weights[:, wrong]
        surer = total - (right_below[:, below] + right_below[:, up_to]) / 2
        pairs = total * wrong_weights.sum(1, keepdim=True)
        return (wrong_weights * surer).sum(1, keepdim=True) / pairs

    return statistic


def calibrated_errors(
    confidences: torch.Tensor, all_bins: Sequence[Bins], num_samples: int, seed: int
) -> torch.Tensor:
    """Simulate the calibration errors of a perfectly calibrated model with these confidences. They are not 0 on few
    rows: the fraction of correct rows among those with confidence c is c only in expectation.

    Args:
        confidences (`torch.Tensor` of shape `(num_rows,)`): in [0, 1].
        all_bins (`Sequence[Bins]`): arguments of [`~metrics.reliability_bins`], such as `PAPER_BINS`.
        num_samples (`int`): number of simulations.
        seed (`int`): seed of the draws.

    Returns:
        `torch.Tensor` of shape `(num_samples, len(all_bins))`: float64, NaN if no row lies in the bins.
    """
    confidences = confidences.double()
    nobody = torch.zeros(len(confidences), dtype=torch.bool)
    members = [_membership(confidences, nobody, **bins) for bins in all_bins]
    generator = torch.Generator().manual_seed(seed)
    chunks = []
    for size in chunk_sizes(len(confidences), num_samples):
        drawn = torch.rand(size, len(confidences), dtype=torch.float64, generator=generator) < confidences
        gaps = drawn.double() - confidences
        chunks.append(torch.stack([(gaps @ member).abs().sum(1) / member.sum() for member in members], 1))
    return torch.cat(chunks)


def _membership(
    confidences: torch.Tensor, correct: torch.Tensor, num_bins: int, low: float, high: float
) -> torch.Tensor:
    """Return which row lies in which bin: 0 or 1, of shape `(num_rows, num_bins)`."""
    bins, num_below = reliability_bins(confidences, correct, num_bins, low, high)
    # Sorted by confidence, the rows of a bin are consecutive, so the counts locate them.
    counts = torch.tensor([num_below, *(b.count for b in bins)])
    member = torch.zeros(len(confidences), num_bins + 1, dtype=torch.float64)
    member[confidences.argsort(), torch.arange(num_bins + 1).repeat_interleave(counts)] = 1
    return member[:, 1:]
