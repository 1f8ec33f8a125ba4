# SPDX-License-Identifier: Apache-2.0
"""Statistics of rows with weights, for [`~bootstrap.bootstrap_intervals`]: each takes weights of shape
`(num_resamples, num_rows)` and returns float64 values of shape `(num_resamples, num_values)`.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from ..measurement.metrics import Bins, reliability_bins
from .bootstrap import Statistic, chunk_sizes


def weighted_means(columns: torch.Tensor) -> Statistic:
    """Mean of each column.

    Args:
        columns (`torch.Tensor` of shape `(num_rows, num_columns)`): bools or numbers.
    """
    columns = columns.double()
    return lambda weights: weights @ columns / weights.sum(1, keepdim=True)


def weighted_mean_among(column: torch.Tensor, chosen: torch.Tensor) -> Statistic:
    """Mean of a column over some of the rows, NaN where none of them has a weight.

    Args:
        column (`torch.Tensor` of shape `(num_rows,)`): bools or numbers.
        chosen (`torch.BoolTensor` of shape `(num_rows,)`): the rows that count.
    """
    both = torch.stack([column.double() * chosen, chosen.double()], 1)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        total, count = (weights @ both).unbind(1)
        return (total / count)[:, None]

    return statistic


def weighted_calibration_error(
    confidences: torch.Tensor, correct: torch.Tensor, num_bins: int, low: float, high: float
) -> Statistic:
    """The expected calibration error, as [`~metrics.expected_calibration_error`], whose arguments these are."""
    member = _membership(confidences, correct, num_bins, low, high)
    gaps = member * (correct.double() - confidences.double())[:, None]
    inside = member.sum(1)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        return ((weights @ gaps).abs().sum(1) / (weights @ inside))[:, None]

    return statistic


def weighted_auroc(confidences: torch.Tensor, correct: torch.Tensor) -> Statistic:
    """How well confidence ranks right answers above wrong ones: the probability that a right row is surer than a wrong
    one, ties counting half. NaN where all rows are right, or all wrong.

    Args:
        confidences (`torch.Tensor` of shape `(num_rows,)`): confidence of each answer.
        correct (`torch.BoolTensor` of shape `(num_rows,)`): whether it was right.
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
    """Calibration errors that a perfectly calibrated model with these confidences would show: of rows with confidence
    c a share of c is right only in the mean, so its error on few rows is not 0.

    Args:
        confidences (`torch.Tensor` of shape `(num_rows,)`): in [0, 1].
        all_bins (`Sequence[Bins]`): arguments of [`~metrics.reliability_bins`], such as `PAPER_BINS`.
        num_samples (`int`): how many times right and wrong are drawn.
        seed (`int`): of the draws.

    Returns:
        `torch.Tensor` of shape `(num_samples, len(all_bins))`: float64, NaN where no row lies in the bins.
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
    """Which row lies in which bin: 0 or 1, of shape `(num_rows, num_bins)`."""
    bins, num_below = reliability_bins(confidences, correct, num_bins, low, high)
    # In the order of confidence the bins are runs of rows, so that their counts say where they are.
    counts = torch.tensor([num_below, *(b.count for b in bins)])
    member = torch.zeros(len(confidences), num_bins + 1, dtype=torch.float64)
    member[confidences.argsort(), torch.arange(num_bins + 1).repeat_interleave(counts)] = 1
    return member[:, 1:]
