# SPDX-License-Identifier: Apache-2.0
"""Accuracy and calibration of recorded answers. Tensors only: nothing here holds a model.

A row with a NaN logit counts as wrong. Calibration compares each row's confidence with whether it is right: the
expected calibration error (ECE, Guo et al., arXiv 1706.04599, eq. 3) is `Σ count_b / Σ count ·
|accuracy_b - confidence_b|` over bins of equal width, closed on the right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypedDict

import torch

from ..models.errors import ArgumentError
from ..models.exit_rule import route
from ..models.tasks import SINGLE_LABEL, Task


class Bins(TypedDict):
    """Bins of equal width for confidences."""

    num_bins: int
    low: float
    high: float


STANDARD_BINS: Bins = {"num_bins": 15, "low": 0.0, "high": 1.0}
# Morisot, arXiv 2007.13512, table 1.
PAPER_BINS: Bins = {"num_bins": 8, "low": 0.2, "high": 1.0}


def replay(
    exit_logits: torch.Tensor,
    thresholds: float | Sequence[float] = 1.0,
    temperatures: list[float] | None = None,
    task: Task = SINGLE_LABEL,
) -> torch.Tensor:
    """Return which exit answers each row.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`):
            Raw logits of every exit, the MainNet's last.
        thresholds (`float` or `list[float]`, *optional*, defaults to 1.0):
            θ, one for all SideNets or one each; 1 is exits off.
        temperatures (`list[float]`, *optional*): one per exit; by default 1 each.
        task ([`Task`], *optional*, defaults to single-label classification): defines the confidence.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`: exit indices, `num_exits - 1` for the MainNet.

    Raises:
        ValueError: θ or a temperature is invalid, or their number is wrong.
    """
    return route(exit_logits, thresholds, check_temperatures(temperatures, exit_logits.shape[1]), task)


def check_temperatures(temperatures: list[float] | None, num_exits: int) -> list[float]:
    """Check temperatures and return one per exit, 1 each for `None`.

    Raises:
        ValueError: their number is wrong, or one is not a finite number > 0.
    """
    if temperatures is None:
        return [1.0] * num_exits
    if len(temperatures) != num_exits:
        raise ArgumentError("temperatures", f"must have one value per exit ({num_exits})", temperatures)
    for value in temperatures:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ArgumentError("temperatures", "must contain finite numbers > 0", value)
    return [float(value) for value in temperatures]


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose confidence is in `(low, high]`; the first bin also includes its lower edge.

    Args:
        low (`float`): lower edge.
        high (`float`): upper edge.
        count (`int`): number of rows.
        accuracy (`float`): fraction of rows that are right; NaN if there are none.
        confidence (`float`): mean confidence; NaN if there are none.
    """

    low: float
    high: float
    count: int
    accuracy: float
    confidence: float


def correct_rows(logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL) -> torch.Tensor:
    """Return which rows are answered correctly.

    Args:
        logits (`torch.Tensor` of shape `(num_rows, num_labels)`): raw logits.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        task ([`Task`], *optional*, defaults to single-label classification): the task.

    Returns:
        `torch.BoolTensor` of shape `(num_rows,)`.

    Raises:
        ValueError: the shapes do not match.
    """
    return task.correct(logits, labels)


def accuracy(logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL) -> float:
    """Return the fraction of rows answered correctly, NaN if there are none. Arguments as in [`correct_rows`]."""
    return task.correct(logits, labels).double().mean().item()


def reliability_bins(
    confidences: torch.Tensor, correct: torch.Tensor, num_bins: int = 15, low: float = 0.0, high: float = 1.0
) -> tuple[list[ReliabilityBin], int]:
    """Compute accuracy and mean confidence in bins of equal width: a reliability diagram.

    Args:
        confidences (`torch.Tensor` of shape `(num_rows,)`): confidence of each answer, in [0, 1].
        correct (`torch.BoolTensor` of shape `(num_rows,)`): whether it is right.
        num_bins (`int`, *optional*, defaults to 15): number of bins between `low` and `high`.
        low (`float`, *optional*, defaults to 0.0): lower edge of the first bin.
        high (`float`, *optional*, defaults to 1.0): upper edge of the last bin.

    Returns:
        `tuple[list[ReliabilityBin], int]`: the bins, and the number of rows below `low`, which are in no bin.

    Raises:
        ValueError: shapes do not match, edges are invalid, or a confidence is NaN or above `high`.
    """
    _check_bins(confidences, correct, num_bins, low, high)
    # Edges in the confidences' dtype: 0.6 in float32 is > 0.6 in float64, but belongs to the bin that ends there.
    edges = torch.linspace(low, high, num_bins + 1, dtype=torch.float64, device=confidences.device)
    inside = confidences >= edges[0].to(confidences.dtype)
    index = torch.bucketize(confidences[inside], edges[1:-1].to(confidences.dtype))
    counts, right, total = (
        torch.zeros(num_bins, dtype=torch.float64, device=index.device).index_add_(0, index, values[inside].double())
        for values in (torch.ones_like(confidences), correct, confidences)
    )
    columns = (edges[:-1], edges[1:], counts, right / counts, total / counts)
    bins = [
        ReliabilityBin(lower, upper, int(count), hits, mean)
        for lower, upper, count, hits, mean in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return bins, int((~inside).sum())


def expected_calibration_error(
    confidences: torch.Tensor, correct: torch.Tensor, num_bins: int = 15, low: float = 0.0, high: float = 1.0
) -> float:
    """Return the ECE in [0, 1] over the rows in the bins, NaN if there are none.

    Rows below `low` are ignored; [`reliability_bins`], with the same arguments, counts them. The paper's table 1 uses
    8 bins over 0.2-1: `expected_calibration_error(confidences, correct, **PAPER_BINS)`.

    Raises:
        ValueError: see [`reliability_bins`].

    Example:

    ```python
    >>> expected_calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
    0.4000...
    ```
    """
    bins, _ = reliability_bins(confidences, correct, num_bins, low, high)
    count = sum(b.count for b in bins)
    if count == 0:
        return float("nan")
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins if b.count > 0) / count


def _check_bins(confidences: torch.Tensor, correct: torch.Tensor, num_bins: int, low: float, high: float) -> None:
    if confidences.dim() != 1 or correct.shape != confidences.shape:
        raise ArgumentError(
            "confidences",
            "and `correct` must be one-dimensional and of the same length, got shapes "
            f"{tuple(confidences.shape)} and {tuple(correct.shape)}",
        )
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise ArgumentError("num_bins", "must be an integer ≥ 1", num_bins)
    if not 0 <= low < high <= 1:
        raise ArgumentError("low", f"and `high` must satisfy 0 ≤ low < high ≤ 1, got low={low}, high={high}")
    # A softmax may exceed 1 by a rounding error.
    wrong = confidences[~((confidences >= 0) & (confidences <= high + 1e-6))]
    if wrong.numel() > 0:
        raise ArgumentError("confidences", f"must be in [0, high={high}], got {wrong[0].item()}")
