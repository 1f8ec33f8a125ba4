# SPDX-License-Identifier: Apache-2.0
"""What happens at the exits during one forward call: SideNets answer, rows leave, answers are put together."""

from collections.abc import Callable

import torch

from .exit_rule import answers, confidence, leaves, lets_rows_leave
from .gate import StopForward


class Routing:
    """Visitor of the gates for one call.

    Args:
        exit_layers (`list[int]`): number of blocks before each SideNet.
        answer (`Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]`):
            SideNet index, hidden states of the rows inside and their places in the batch → logits.
        thresholds (`list[float | torch.Tensor]`): θ of each SideNet, as [`check_thresholds`] returns it.
        temperatures (`list[float]`): one per exit.
        keep_all_rows (`bool`): decide, but run every block for every row (parameters sharded over ranks).
    """

    def __init__(
        self,
        exit_layers: list[int],
        answer: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor],
        thresholds: list[float | torch.Tensor],
        temperatures: list[float],
        keep_all_rows: bool = False,
    ):
        self.exits = {layer: i for i, layer in enumerate(exit_layers)}
        self.answer = answer
        self.thresholds = thresholds
        self.temperatures = temperatures
        self.keep_all_rows = keep_all_rows
        self.columns: list[torch.Tensor] = []  # (batch, num_labels) each, NaN where a row did not come
        self.exit_index: torch.Tensor | None = None

    def visit(self, index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        """See [`Run.visit`]. Copies one index tensor to the host, and none where nobody can leave."""
        if index not in self.exits:
            return None
        i = self.exits[index]
        logits = self.answer(i, hidden, rows)
        if self.exit_index is None:
            self.exit_index = torch.full(hidden.shape[:1], len(self.exits), device=logits.device)
        logits = logits.to(self.exit_index.device)
        inside = None if rows is None else rows.to(logits.device)
        threshold = self.thresholds[i]
        if self.keep_all_rows:
            return self._decide_only(i, logits, threshold)
        self.columns.append(_spread(logits, inside, self.exit_index.shape[0]))
        if not lets_rows_leave(threshold):
            return None
        if isinstance(threshold, torch.Tensor):
            threshold = threshold.to(logits.device)
            threshold = threshold if inside is None else threshold.index_select(0, inside)
        left = leaves(confidence(logits, self.temperatures[i]), threshold)
        answered = torch.where(left, i, len(self.exits))
        self.exit_index = answered if inside is None else self.exit_index.index_copy(0, inside, answered)
        keep = (~left).nonzero().squeeze(-1)
        if keep.numel() == 0:
            raise StopForward
        return None if keep.numel() == hidden.shape[0] else keep

    def _decide_only(self, i: int, logits: torch.Tensor, threshold: float | torch.Tensor) -> None:
        already_left = self.exit_index < i
        self.columns.append(logits.masked_fill(already_left.unsqueeze(-1), torch.nan))
        if isinstance(threshold, torch.Tensor):
            threshold = threshold.to(logits.device)
        left = leaves(confidence(self.columns[-1], self.temperatures[i]), threshold)
        self.exit_index = torch.where(left, i, self.exit_index)

    def finish(self, mainnet_logits: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Answers, exit indices and logits of every exit: `(batch, labels)`, `(batch,)`, `(batch, exits, labels)`."""
        main = len(self.exits)
        columns = list(self.columns)
        if mainnet_logits is None:
            columns += [torch.full_like(columns[0], torch.nan)] * (main + 1 - len(columns))
        else:
            mainnet_logits = mainnet_logits.to(self.exit_index.device)
            if not any(map(lets_rows_leave, self.thresholds)):
                # As they are: the common dtype of all exits may be a wider one.
                return mainnet_logits, self.exit_index, stack_exits([*columns, mainnet_logits])
            gone = (self.exit_index < main).unsqueeze(-1)
            columns.append(mainnet_logits.masked_fill(gone, torch.nan))
        exit_logits = stack_exits(columns)
        return answers(exit_logits, self.exit_index), self.exit_index, exit_logits


class Recording:
    """Visitor that only keeps x_c of each SideNet, for training: nobody leaves, nothing is decided.

    SideNets run after the forward, because with gradient checkpointing a gate may sit inside a checkpoint.

    Args:
        exit_layers (`list[int]`): number of blocks before each SideNet.
        stop (`bool`): end the forward after the last SideNet's block.
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
    """`(batch, num_exits, num_labels)` from one `(batch, num_labels)` tensor per exit, in their widest dtype."""
    dtype = columns[0].dtype
    for column in columns:
        dtype = torch.promote_types(dtype, column.dtype)
    return torch.stack([column.to(columns[0].device, dtype) for column in columns], dim=1)


def _spread(logits: torch.Tensor, rows: torch.Tensor | None, batch_size: int) -> torch.Tensor:
    if rows is None:
        return logits
    return logits.new_full((batch_size, logits.shape[-1]), torch.nan).index_copy(0, rows, logits)
