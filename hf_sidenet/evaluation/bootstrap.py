# SPDX-License-Identifier: Apache-2.0
"""Percentile bootstrap over rows: how far would a number move on other rows of the same kind?

A resample draws as many rows as there are, with replacement, which is the same as giving every row a weight: how often
it was drawn. A statistic is therefore a function of weights, and its own value is what it says when all weights are 1.
The same seed gives the same resamples, so that statistics taken together are paired.

Limits: the interval covers the choice of test rows only, not another training run. It is a plain percentile interval:
a statistic that is biased upwards on few rows, as the calibration error is, has an interval that lies too high.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..models.errors import ArgumentError


# Weights of shape (num_resamples, num_rows) in, values of shape (num_resamples, num_values) out.
Statistic = Callable[[torch.Tensor], torch.Tensor]
Key = TypeVar("Key", bound=Hashable)
# Of weights held at a time: 16 MiB.
CHUNK_ELEMENTS = 2**21


@dataclass(frozen=True)
class Interval:
    """A number with its interval, by default of the percentile bootstrap. NaN where it is not defined.

    Args:
        value (`float`): on the rows as they are.
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
    """Intervals of several statistics, all on the same resamples.

    Args:
        statistics (`Mapping[Hashable, Callable]`):
            Each takes weights of shape `(num_resamples, num_rows)` and returns values of shape
            `(num_resamples, num_values)`. Resamples in which a value is NaN do not count for it.
        num_rows (`int`): rows to draw from.
        num_resamples (`int`, *optional*, defaults to 1000): how many times they are drawn.
        level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside the interval.
        seed (`int`, *optional*, defaults to 0): of the draws.

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
    """How often each row is drawn in each resample: float64 of shape `(some resamples, num_rows)`, in chunks."""
    generator = torch.Generator().manual_seed(seed)
    for size in chunk_sizes(num_rows, num_resamples):
        drawn = torch.randint(num_rows, (size, num_rows), generator=generator)
        one = torch.ones((), dtype=torch.float64).expand(size, num_rows)
        yield torch.zeros(size, num_rows, dtype=torch.float64).scatter_add_(1, drawn, one)


def chunk_sizes(num_rows: int, total: int) -> Iterator[int]:
    """Cut `total` vectors of `num_rows` into chunks of bounded memory."""
    size = max(1, CHUNK_ELEMENTS // num_rows)
    for start in range(0, total, size):
        yield min(size, total - start)


def percentiles(samples: torch.Tensor, level: float) -> tuple[float, float]:
    """The ends of the middle `level` of `samples` of shape `(num_samples,)`; NaNs do not count."""
    tail = (1 - level) / 2
    low, high = torch.nanquantile(samples, torch.tensor([tail, 1 - tail], dtype=samples.dtype)).tolist()
    return low, high


def _intervals(values: torch.Tensor, resampled: torch.Tensor, level: float) -> list[Interval]:
    # Column by column, since PyTorch's quantile refuses tensors of more than 16 million elements.
    columns = resampled.T.contiguous()
    return [
        Interval(value, *percentiles(column, level)) for value, column in zip(values.tolist(), columns, strict=True)
    ]
