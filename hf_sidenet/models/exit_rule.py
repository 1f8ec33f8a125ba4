# SPDX-License-Identifier: Apache-2.0
"""Exit rule: pure tensor functions shared by the forward pass, the replay on recorded logits and the plots.

A row exits at a SideNet if and only if its confidence is strictly greater than that SideNet's threshold θ
(Morisot, arXiv 2007.13512, §3). Nothing here holds a model.
"""

import math
import reprlib
from collections.abc import Callable, Sequence
from numbers import Real
from typing import overload

import torch

from .errors import ArgumentError, StopForward
from .tasks import SINGLE_LABEL, Task


def leaves(confidence: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """Return which rows exit: `confidence > threshold`, strictly, so at θ ≥ 1 no row exits, and NaN never does."""
    return confidence > threshold


def route(
    exit_logits: torch.Tensor,
    thresholds: float | Sequence[float] | torch.Tensor,
    temperatures: Sequence[float],
    task: Task = SINGLE_LABEL,
) -> torch.Tensor:
    """Replay the exit rule on recorded logits.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`):
            Raw logits of every exit, the MainNet's last.
        thresholds (`list[float]` or `torch.Tensor` of shape `(num_rows, num_exits - 1)`):
            θ of each SideNet.
        temperatures (`list[float]`):
            One per exit.
        task ([`Task`], *optional*, defaults to single-label classification): defines the confidence.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`: index of the exit that answers each row; the MainNet's is
        `num_exits - 1`.
    """
    num_sidenets = exit_logits.shape[1] - 1
    checked = check_thresholds(thresholds, num_sidenets, exit_logits.shape[0])
    exit_index = torch.full(exit_logits.shape[:1], num_sidenets, dtype=torch.long, device=exit_logits.device)
    for i in reversed(range(num_sidenets)):
        left = leaves(task.confidence(exit_logits[:, i], temperatures[i]), checked[i])
        exit_index = torch.where(left, i, exit_index)
    return exit_index


def answers(exit_logits: torch.Tensor, exit_index: torch.Tensor) -> torch.Tensor:
    """Return the logits of the exit that answered each row, of shape `(num_rows, num_labels)`."""
    index = exit_index.view(-1, 1, 1).expand(-1, 1, exit_logits.shape[-1])
    return exit_logits.gather(1, index).squeeze(1)


def has_weights(chain: Sequence[Sequence[float]]) -> bool:
    """Return whether any exit builds on an earlier one, in a `SideNetConfig.chain` or a part of it."""
    return any(map(any, chain))


def chained(own: torch.Tensor, earlier: Sequence[torch.Tensor] | None, weights: Sequence[float]) -> torch.Tensor:
    """Add shares of the logits of earlier exits to an exit's own, in at least float32; see `SideNetConfig.chain`.

    Args:
        own (`torch.Tensor` of shape `(rows, num_labels)`): what the exit computes from x_c.
        earlier (`Sequence[torch.Tensor]`, *optional*): own logits of the exits before, in order, in the same shape;
            `None` if nobody kept them.
        weights (`Sequence[float]`): their weights; if all are 0, nothing changes.

    Raises:
        ValueError: logits with a weight are missing.
    """
    if not any(weights):
        return own
    if earlier is None or len(earlier) < len(weights):
        given = 0 if earlier is None else len(earlier)
        raise ArgumentError("earlier", f"must have the logits of the {len(weights)} exits before, got {given}")
    wide = torch.promote_types(own.dtype, torch.float32)
    total = own.to(wide)
    for logits, weight in zip(earlier, weights, strict=False):
        if weight:
            # Detached: SideNets stay independent (paper §3).
            total = total + weight * logits.detach().to(own.device, wide)
    return total


def chain_exits(own: Sequence[torch.Tensor], chain: Sequence[Sequence[float]]) -> list[torch.Tensor]:
    """Chain the logits of all exits.

    Args:
        own (`Sequence[torch.Tensor]`): own logits of each exit, of shape `(rows, num_labels)`; later ones may be
            missing.
        chain (`Sequence[Sequence[float]]`): `SideNetConfig.chain`.
    """
    return [own[0], *(chained(own[i + 1], own[: i + 1], chain[i]) for i in range(len(own) - 1))]


def own_mainnet_logits(exit_logits: torch.Tensor, chain: Sequence[Sequence[float]]) -> torch.Tensor:
    """Return the MainNet's own logits from chained logits of all exits.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`): chained logits.
        chain (`Sequence[Sequence[float]]`): `SideNetConfig.chain`.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_labels)`: exact if the MainNet adds nothing, otherwise up to rounding.
    """
    if not any(chain[-1]):
        return exit_logits[:, -1].clone()
    own = [exit_logits[:, 0]]
    for i, weights in enumerate(chain, start=1):
        own.append(chained(exit_logits[:, i], own, [-weight for weight in weights]))
    return own[-1]


def lets_rows_leave(threshold: float | torch.Tensor) -> bool:
    """Return whether any row can exit at this θ, as [`check_thresholds`] returns it."""
    return isinstance(threshold, torch.Tensor) or threshold < 1


@overload
def check_thresholds(
    thresholds: float | Sequence[float], num_sidenets: int, batch_size: int | None = None
) -> list[float]: ...


@overload
def check_thresholds(
    thresholds: torch.Tensor, num_sidenets: int, batch_size: int | None = None
) -> list[float | torch.Tensor]: ...


def check_thresholds(
    thresholds: float | Sequence[float] | torch.Tensor, num_sidenets: int, batch_size: int | None = None
) -> Sequence[float | torch.Tensor]:
    """Normalize θ to one entry per SideNet: a float, or a float32 tensor of shape `(batch_size,)`.

    A column of a CPU tensor that lets no row exit becomes 1.0. Tensors on other devices are not read, which would
    synchronize.

    Raises:
        ValueError: θ is NaN, negative, a string or a bool, has the wrong length, or is a tensor that is not 2-D.
        RuntimeError: in compiled code, a CPU tensor of θ has a NaN or negative value.
    """
    if isinstance(thresholds, torch.Tensor):
        return _check_threshold_tensor(thresholds, num_sidenets, batch_size)
    values: object = thresholds
    if isinstance(thresholds, Real) and not isinstance(thresholds, bool):
        values = [thresholds] * num_sidenets
    if not isinstance(values, list | tuple):
        raise ArgumentError(
            "thresholds",
            "must be a number, a list with one number per SideNet, or a tensor of shape "
            f"(batch, num_sidenets), got {reprlib.repr(thresholds)}",
        )
    if len(values) != num_sidenets:
        raise ArgumentError(
            "thresholds",
            f"must have one value per SideNet ({num_sidenets}), got {len(values)}: {reprlib.repr(thresholds)}",
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or value < 0:
            raise ArgumentError(
                "thresholds", f"must contain numbers that are ≥ 0 and not NaN, got {reprlib.repr(value)}"
            )
    return [float(value) for value in values]


def _check_threshold_tensor(
    thresholds: torch.Tensor, num_sidenets: int, batch_size: int | None
) -> list[float | torch.Tensor]:
    if thresholds.dim() != 2:
        raise ArgumentError(
            "thresholds",
            "as a tensor must have shape (batch, num_sidenets), because one axis could mean rows or SideNets, got "
            f"shape {tuple(thresholds.shape)}. Pass a list for one θ per SideNet",
        )
    if thresholds.shape[1] != num_sidenets or batch_size not in (None, thresholds.shape[0]):
        raise ArgumentError(
            "thresholds",
            f"must have shape (batch={batch_size}, num_sidenets={num_sidenets}), got shape {tuple(thresholds.shape)}",
        )
    if thresholds.dtype == torch.bool or thresholds.is_complex():
        raise ArgumentError("thresholds", f"must contain numbers that are ≥ 0, got a tensor of {thresholds.dtype}")
    columns: list[float | torch.Tensor] = [*thresholds.float().unbind(1)]
    if thresholds.device.type != "cpu":
        return columns
    if torch.compiler.is_dynamo_compiling():
        # Traced code cannot read the values; this checks them at run time.
        holds, rule = (thresholds >= 0).all(), "`thresholds` must contain numbers that are ≥ 0 and not NaN."
        torch._assert_async(holds, rule)  # pyright: ignore[reportPrivateImportUsage]  it has no other name
        return columns
    if not bool((thresholds >= 0).all()):
        raise ArgumentError("thresholds", "must contain numbers that are ≥ 0 and not NaN, got a tensor with others")
    return [1.0 if bool((column >= 1).all()) else column for column in thresholds.float().unbind(1)]


class Routing:
    """Gate visitor that applies the exit rule in one forward call.

    Args:
        exit_layers (`list[int]`): number of blocks before each SideNet.
        answer (`Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]`):
            Maps a SideNet index, the hidden states of the remaining rows and their positions in the whole batch to
            logits.
        thresholds (`Sequence[float | torch.Tensor]`): θ of each SideNet, as [`check_thresholds`] returns it.
        temperatures (`list[float]`): one per exit.
        chain (`list[list[float]]`): see `SideNetConfig.chain`.
        task ([`Task`]): defines the confidence.
        keep_all_rows (`bool`): decide, but run every block on every row (for parameters sharded over ranks).
    """

    def __init__(
        self,
        exit_layers: list[int],
        answer: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor],
        thresholds: Sequence[float | torch.Tensor],
        temperatures: Sequence[float],
        chain: Sequence[Sequence[float]],
        task: Task,
        keep_all_rows: bool = False,
    ):
        self.exits = {layer: i for i, layer in enumerate(exit_layers)}
        self.answer = answer
        self.thresholds = thresholds
        self.temperatures = temperatures
        self.chain = [[], *chain]
        self.task = task
        self.keep_all_rows = keep_all_rows
        self.columns: list[torch.Tensor] = []  # (batch, num_labels) each, NaN for rows that did not reach it
        self.own: list[torch.Tensor] = []  # the same before chaining, if there is a chain
        self.entered: torch.Tensor | None = None  # rows that the MainNet gets, if others exited before it
        self.exit_index: torch.Tensor | None = None

    def visit(self, index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        """See [`Run.visit`]. Copies one index tensor to the host, or none if no row can exit.

        Called with 0 blocks and the whole input before the MainNet, which then gets only the rows to keep.
        """
        if index not in self.exits:
            return None
        i = self.exits[index]
        rows = self._in_batch(rows, hidden.device)
        logits = self.answer(i, hidden, rows)
        if self.exit_index is None:
            self.exit_index = torch.full(hidden.shape[:1], len(self.exits), device=logits.device)
        logits = logits.to(self.exit_index.device)
        inside = None if rows is None else rows.to(logits.device)
        logits = self._chained(i, logits, inside)
        threshold = self.thresholds[i]
        if self.keep_all_rows:
            self.exit_index = self._decided(i, logits, threshold, self.exit_index)
            return None
        self.columns.append(_spread(logits, inside, self.exit_index.shape[0]))
        if not lets_rows_leave(threshold):
            return None
        if isinstance(threshold, torch.Tensor):
            threshold = threshold.to(logits.device)
            threshold = threshold if inside is None else threshold.index_select(0, inside)
        left = leaves(self.task.confidence(logits, self.temperatures[i]), threshold)
        answered = torch.where(left, i, len(self.exits))
        self.exit_index = answered if inside is None else self.exit_index.index_copy(0, inside, answered)
        keep = (~left).nonzero().squeeze(-1)
        if keep.numel() == 0:
            raise StopForward
        if keep.numel() == hidden.shape[0]:
            return None
        if index == 0:
            self.entered = keep
        return keep

    def _chained(self, i: int, own: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        """Add the shares of earlier exits, for the remaining rows, and keep the exit's own logits for later ones."""
        if not has_weights(self.chain):
            return own
        assert self.exit_index is not None  # Set at the first SideNet.
        earlier = [logits if inside is None else logits.index_select(0, inside) for logits in self.own]
        self.own.append(_spread(own, inside, self.exit_index.shape[0]))
        return chained(own, earlier, self.chain[i])

    def _in_batch(self, rows: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
        """Return positions in the whole batch for positions among the rows that the MainNet gets."""
        rows = None if rows is None else rows.to(device)
        if self.entered is None:
            return rows
        entered = self.entered.to(device)
        return entered if rows is None else entered.index_select(0, rows)

    def _decided(
        self, i: int, logits: torch.Tensor, threshold: float | torch.Tensor, exit_index: torch.Tensor
    ) -> torch.Tensor:
        already_left = exit_index < i
        self.columns.append(logits.masked_fill(already_left.unsqueeze(-1), torch.nan))
        if isinstance(threshold, torch.Tensor):
            threshold = threshold.to(logits.device)
        left = leaves(self.task.confidence(self.columns[-1], self.temperatures[i]), threshold)
        return torch.where(left, i, exit_index)

    def finish(self, mainnet_logits: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return answers `(batch, labels)`, exit indices `(batch,)` and exit logits `(batch, exits, labels)`."""
        main, exit_index = len(self.exits), self.exit_index
        assert exit_index is not None  # The first SideNet has been visited.
        columns = list(self.columns)
        if mainnet_logits is None:
            columns += [torch.full_like(columns[0], torch.nan)] * (main + 1 - len(columns))
        else:
            mainnet_logits = mainnet_logits.to(exit_index.device)
            inside = self._in_batch(None, exit_index.device)
            mainnet_logits = self._chained(main, mainnet_logits, inside)
            if not any(map(lets_rows_leave, self.thresholds)):
                # Unchanged: the common dtype of all exits may be wider.
                return mainnet_logits, exit_index, stack_exits([*columns, mainnet_logits])
            mainnet_logits = _spread(mainnet_logits, inside, exit_index.shape[0])
            gone = (exit_index < main).unsqueeze(-1)
            columns.append(mainnet_logits.masked_fill(gone, torch.nan))
        exit_logits = stack_exits(columns)
        return answers(exit_logits, exit_index), exit_index, exit_logits


class Recording:
    """Gate visitor for training that only records x_c of each SideNet: no row exits.

    SideNets run after the forward pass, because a gate may sit inside a gradient checkpoint.

    Args:
        exit_layers (`list[int]`): number of blocks before each SideNet.
        stop (`bool`): end the forward pass after the last SideNet's block.
    """

    def __init__(self, exit_layers: list[int], stop: bool):
        self.exit_layers = exit_layers
        self.stop = stop
        self.hidden: list[torch.Tensor] = []

    def visit(self, index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        """See [`Run.visit`]."""
        if index not in self.exit_layers:
            return
        self.hidden.append(hidden)
        if self.stop and len(self.hidden) == len(self.exit_layers):
            raise StopForward


def stack_exits(columns: list[torch.Tensor]) -> torch.Tensor:
    """Stack one `(batch, num_labels)` tensor per exit to `(batch, num_exits, num_labels)`, in the widest dtype."""
    dtype = columns[0].dtype
    for column in columns:
        dtype = torch.promote_types(dtype, column.dtype)
    return torch.stack([column.to(columns[0].device, dtype) for column in columns], dim=1)


def _spread(logits: torch.Tensor, rows: torch.Tensor | None, batch_size: int) -> torch.Tensor:
    if rows is None:
        return logits
    return logits.new_full((batch_size, logits.shape[-1]), torch.nan).index_copy(0, rows, logits)
