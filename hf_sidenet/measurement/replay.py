# SPDX-License-Identifier: Apache-2.0
"""The exit rule on recorded logits, with the defaults of an uncalibrated model."""

import math
from numbers import Real

import torch

from ..models.exit_rule import route
from ..models.tasks import SINGLE_LABEL, Task


def replay(
    exit_logits: torch.Tensor,
    thresholds: float | list[float] = 1.0,
    temperatures: list[float] | None = None,
    task: Task = SINGLE_LABEL,
) -> torch.Tensor:
    """Which exit answers each row.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`):
            Raw logits of every exit, the MainNet's last.
        thresholds (`float` or `list[float]`, *optional*, defaults to 1.0):
            θ, one for all SideNets or one each; 1 is exits off.
        temperatures (`list[float]`, *optional*): one per exit; by default 1 each.
        task ([`Task`], *optional*, defaults to single-label classification): says how sure an answer is.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`: the exit index, `num_exits - 1` for the MainNet.

    Raises:
        ValueError: θ or a temperature is impossible, or their number is wrong.
    """
    return route(exit_logits, thresholds, check_temperatures(temperatures, exit_logits.shape[1]), task)


def check_temperatures(temperatures: list[float] | None, num_exits: int) -> list[float]:
    """One temperature per exit, 1 each for `None`.

    Raises:
        ValueError: their number is wrong, or one is not a finite number > 0.
    """
    if temperatures is None:
        return [1.0] * num_exits
    if len(temperatures) != num_exits:
        raise ValueError(f"`temperatures` must have one value per exit ({num_exits}), got {temperatures!r}.")
    for value in temperatures:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ValueError(f"`temperatures` must hold finite numbers > 0, got {value!r}.")
    return [float(value) for value in temperatures]
