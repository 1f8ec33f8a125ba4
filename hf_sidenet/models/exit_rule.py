# SPDX-License-Identifier: Apache-2.0
"""The exit rule: pure tensor functions shared by the live forward, the replay on recorded logits and the plots.

A row leaves at a SideNet if and only if its confidence is strictly greater than that SideNet's threshold θ
(Morisot, arXiv 2007.13512, §3). Nothing here holds a model.
"""

import math
import reprlib
from numbers import Real

import torch


def confidence(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Confidence of an answer: the largest softmax probability of `logits / temperature`.

    For two classes this is the paper's `max(p, 1 - p)` of a one-logit sigmoid.

    Args:
        logits (`torch.Tensor` of shape `(..., num_labels)`):
            Raw logits. Half-precision logits are read in float32, whose steps near 1 are fine enough for θ.
        temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits; from `SideNetConfig.temperatures`.

    Returns:
        `torch.Tensor` of shape `(...)`: NaN where a logit is NaN.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits / temperature).softmax(-1).amax(-1)


def leaves(confidence: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """Which rows leave: `confidence > threshold`, strictly, so θ ≥ 1 lets nobody leave and NaN never leaves."""
    return confidence > threshold


def route(
    exit_logits: torch.Tensor, thresholds: list[float] | torch.Tensor, temperatures: list[float]
) -> torch.Tensor:
    """Replay the exit rule on recorded logits: the exit that answers each row.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`):
            Raw logits of every exit, the MainNet's last.
        thresholds (`list[float]` or `torch.Tensor` of shape `(num_rows, num_exits - 1)`):
            θ of each SideNet.
        temperatures (`list[float]`):
            One per exit.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`: the exit index, `num_exits - 1` for the MainNet.
    """
    num_sidenets = exit_logits.shape[1] - 1
    thresholds = check_thresholds(thresholds, num_sidenets, exit_logits.shape[0])
    exit_index = torch.full(exit_logits.shape[:1], num_sidenets, dtype=torch.long, device=exit_logits.device)
    for i in reversed(range(num_sidenets)):
        left = leaves(confidence(exit_logits[:, i], temperatures[i]), thresholds[i])
        exit_index = torch.where(left, i, exit_index)
    return exit_index


def answers(exit_logits: torch.Tensor, exit_index: torch.Tensor) -> torch.Tensor:
    """Logits of the exit that answered each row, of shape `(num_rows, num_labels)`."""
    index = exit_index.view(-1, 1, 1).expand(-1, 1, exit_logits.shape[-1])
    return exit_logits.gather(1, index).squeeze(1)


def lets_rows_leave(threshold: float | torch.Tensor) -> bool:
    """Whether a row can leave at this θ, as [`check_thresholds`] returns it, at all."""
    return isinstance(threshold, torch.Tensor) or threshold < 1


def check_thresholds(
    thresholds: float | list[float] | torch.Tensor, num_sidenets: int, batch_size: int | None = None
) -> list[float | torch.Tensor]:
    """Bring θ to one entry per SideNet: a float, or a float32 tensor of shape `(batch_size,)`.

    A column of a CPU tensor in which nobody can leave becomes 1.0; a tensor elsewhere is not read, since that would
    wait for its device.

    Raises:
        ValueError: θ is NaN, negative, a string or a bool, has the wrong length, or is a tensor that is not 2-D.
        RuntimeError: in compiled code, a tensor of θ on the CPU has a NaN or a negative value.
    """
    if isinstance(thresholds, torch.Tensor):
        return _check_threshold_tensor(thresholds, num_sidenets, batch_size)
    if isinstance(thresholds, Real) and not isinstance(thresholds, bool):
        thresholds = [thresholds] * num_sidenets
    if not isinstance(thresholds, list | tuple):
        raise ValueError(
            "`thresholds` must be a number, a list with one number per SideNet, or a tensor of shape "
            f"(batch, num_sidenets), got {reprlib.repr(thresholds)}."
        )
    if len(thresholds) != num_sidenets:
        raise ValueError(
            f"`thresholds` must have one value per SideNet ({num_sidenets}), got {len(thresholds)}: "
            f"{reprlib.repr(thresholds)}."
        )
    for value in thresholds:
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or value < 0:
            raise ValueError(f"`thresholds` must hold numbers that are ≥ 0 and not NaN, got {reprlib.repr(value)}.")
    return [float(value) for value in thresholds]


def _check_threshold_tensor(
    thresholds: torch.Tensor, num_sidenets: int, batch_size: int | None
) -> list[float | torch.Tensor]:
    if thresholds.dim() != 2:
        raise ValueError(
            "`thresholds` given as a tensor must have shape (batch, num_sidenets), since one axis could mean rows or "
            f"SideNets, got shape {tuple(thresholds.shape)}. Pass a list for one θ per SideNet."
        )
    if thresholds.shape[1] != num_sidenets or batch_size not in (None, thresholds.shape[0]):
        raise ValueError(
            f"`thresholds` must have shape (batch={batch_size}, num_sidenets={num_sidenets}), got shape "
            f"{tuple(thresholds.shape)}."
        )
    if thresholds.dtype == torch.bool or thresholds.is_complex():
        raise ValueError(f"`thresholds` must hold numbers that are ≥ 0, got a tensor of {thresholds.dtype}.")
    columns = list(thresholds.float().unbind(1))
    if thresholds.device.type != "cpu":
        return columns
    if torch.compiler.is_dynamo_compiling():
        # Traced code cannot read what it holds; this looks when it runs.
        torch._assert_async((thresholds >= 0).all(), "`thresholds` must hold numbers that are ≥ 0 and not NaN.")
        return columns
    if not bool((thresholds >= 0).all()):
        raise ValueError("`thresholds` must hold numbers that are ≥ 0 and not NaN, got a tensor with others.")
    return [1.0 if bool((column >= 1).all()) else column for column in columns]
