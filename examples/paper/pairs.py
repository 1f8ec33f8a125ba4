# SPDX-License-Identifier: Apache-2.0
"""Is one method better than another? Paired differences with an interval over seeds and rows.

Seeds and rows are crossed: every model answers the same test rows. Both are resampled with replacement, and a
difference is weighted by the number of draws of its seed times that of its row (the pigeonhole bootstrap of Owen,
arXiv 0712.1111). With a handful of seeds this is too narrow if the seeds themselves differ, so the interval is at
least as wide as Student's over the means of the seeds.
"""

from dataclasses import dataclass

import torch
from scipy.stats import t as student

from hf_sidenet.evaluation.bootstrap import percentiles, resample_weights


@dataclass(frozen=True)
class Difference:
    """A mean difference.

    Args:
        mean (`float`): over seeds and rows.
        low (`float`): lower end of the interval over both; for one seed, over rows alone.
        high (`float`): its upper end.
        std (`float`): of the seeds' means; NaN for one seed.
        num_seeds (`int`): number of seeds.
    """

    mean: float
    low: float
    high: float
    std: float
    num_seeds: int


def paired_difference(
    first: torch.Tensor, second: torch.Tensor, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Return the mean of `first - second`.

    Args:
        first (`torch.Tensor` of shape `(num_seeds, num_rows)`): which rows were answered correctly, by seed.
        second (`torch.Tensor` of the same shape): the same for the other method.
        num_resamples (`int`, *optional*, defaults to 2000): of the bootstrap.
        level (`float`, *optional*, defaults to 0.95): of the interval.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Raises:
        ValueError: the shapes differ, or there are no seeds or rows.
    """
    if first.shape != second.shape or first.dim() != 2 or first.numel() == 0:
        raise ValueError(
            "`first` and `second` must have one shape (num_seeds, num_rows), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    differences = first.double() - second.double()
    num_seeds, num_rows = differences.shape
    rows = torch.cat([weights @ differences.T for weights in resample_weights(num_rows, num_resamples, seed)])
    seeds = torch.cat(list(resample_weights(num_seeds, num_resamples, seed + 1)))
    low, high = percentiles((rows * seeds).sum(1) / (num_rows * num_seeds), level)
    means = differences.mean(1)
    mean = means.mean().item()
    if num_seeds == 1:
        return Difference(mean, low, high, float("nan"), 1)
    std = means.std().item()
    half = student.ppf((1 + level) / 2, num_seeds - 1) * std / num_seeds**0.5
    return Difference(mean, min(low, mean - half), max(high, mean + half), std, num_seeds)
