# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark: real rows in two orders, and the expected answer to each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..data.rows import Rows
from ..inference.engine import by_kind, padding_of
from ..inference.protocols import StageChain
from ..inference.reading import RowReader
from ..inference.rows import Row, collate
from ..inference.runner import LOOKAHEAD
from ..inference.stages import Stages
from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import answers, own_mainnet_logits, route
from ..models.modeling_base import SideNetPreTrainedModel


# Small batches need fewer rows for a stable median, and would otherwise take most of the time.
MAX_BATCHES = 128
# Batch size of the model whose answers all methods are compared with.
BATCH_SIZE = 32
ANY_EXIT = -1


def read_rows(stages: StageChain, rows: Rows, count: int, seed: int) -> tuple[list[Row], list[int]]:
    """Return some rows of a data set, in random order, and their classes.

    Args:
        stages ([`StageChain`]): stages that will read the rows.
        rows ([`Rows`]): rows with labels.
        count (`int`): number of rows, at most all.
        seed (`int`): seed of the choice and the order.

    Raises:
        ValueError: a row cannot be answered or has no label.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()[:count]
    raw = [rows.dataset[i] for i in order]
    labels = [int(row.get("labels", -100)) for row in raw]
    if -100 in labels:
        raise ValueError("every row must have a label, got one without.")
    reader = RowReader(stages)
    found: list[Row] = []
    for row in reader.read(range(len(raw)), raw, [()] * len(raw)):
        if not isinstance(row, Row):
            raise row
        found.append(row)
    return found, labels


@dataclass(frozen=True, eq=False)
class OrderedBatches:
    """The same rows in two orders.

    Args:
        mixed (`list[list[Row]]`): batches in the original order.
        bucketed (`list[list[Row]]`): batches sorted by length within a window.
    """

    mixed: list[list[Row]]
    bucketed: list[list[Row]]

    def of(self, bucketed: bool) -> list[list[Row]]:
        """Return the batches in one order."""
        return self.bucketed if bucketed else self.mixed


def cut(rows: Sequence[Row], batch_size: int, max_batches: int = MAX_BATCHES) -> OrderedBatches:
    """Cut the first rows into batches, in both orders.

    Args:
        rows (`Sequence[Row]`): rows in mixed order.
        batch_size (`int`): rows per batch; the last may be smaller.
        max_batches (`int`, *optional*, defaults to 128): rows beyond these batches are dropped.
    """
    rows = list(rows[: max_batches * batch_size])
    ordered = by_length(rows, LOOKAHEAD * batch_size)
    return OrderedBatches(
        *([order[i : i + batch_size] for i in range(0, len(order), batch_size)] for order in (rows, ordered))
    )


def by_length(rows: Sequence[Row], window: int) -> list[Row]:
    """Order rows like the runner: sorted by length within each window, alternating between ascending and descending.

    Args:
        rows (`Sequence[Row]`): rows in mixed order.
        window (`int`): number of rows read ahead.
    """
    ordered = []
    for number, start in enumerate(range(0, len(rows), window)):
        part = sorted(rows[start : start + window], key=lambda row: row.length)
        ordered += part[::-1] if number % 2 else part
    return ordered


class Reference:
    """Answers that methods are compared with: of every exit to every row, by the model's own forward with exits off,
    computed once.

    Args:
        model (`Callable[[], SideNetPreTrainedModel]`): returns the model, in the precision of the comparison.
    """

    def __init__(self, model: Callable[[], SideNetPreTrainedModel]):
        self.model = model
        self._rows: Sequence[Row] | None = None
        self._logits: torch.Tensor | None = None

    def exit_logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return logits of shape `(num_rows, num_exits, num_labels)`, by place.

        Args:
            rows (`Sequence[Row]`): rows with `place` 0, 1, 2, ...
        """
        if self._logits is None or self._rows is not rows:
            self._rows, self._logits = rows, self._collect(rows)
        return self._logits

    def routed(
        self, thresholds: Sequence[float], temperatures: Sequence[float]
    ) -> Callable[[Sequence[Row]], tuple[torch.Tensor, torch.Tensor]]:
        """Return a function that returns class and exit of each row at this θ; see `expected` of [`Method`]."""

        def expected(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.exit_logits(rows)
            exit_index = route(logits, list(thresholds), list(temperatures), self.model().task)
            return self.model().task.answer(answers(logits, exit_index)), exit_index

        return expected

    def mainnet(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the MainNet's own class of each row, with any exit."""
        model = self.model()
        labels = model.task.answer(own_mainnet_logits(self.exit_logits(rows), chain_of(model.config)))
        return labels, torch.full_like(labels, ANY_EXIT)

    def _collect(self, rows: Sequence[Row]) -> torch.Tensor:
        model = self.model()
        every_exit = partial(model, thresholds=1.0)
        return logits_by_place(lambda inputs: every_exit(**inputs).exit_logits, Stages(model), rows)


@torch.inference_mode()
def logits_by_place(
    call: Callable[[dict[str, torch.Tensor]], torch.Tensor], stages: StageChain, rows: Sequence[Row]
) -> torch.Tensor:
    """Return logits of a model for rows, in float32 on the CPU, by place.

    Args:
        call (`Callable[[dict[str, torch.Tensor]], torch.Tensor]`): inputs of a batch → logits `(rows, ...)`.
        stages ([`StageChain`]): device, padding and precision of the inputs.
        rows (`Sequence[Row]`): rows with `place` 0, 1, 2, ...
    """
    found: dict[int, torch.Tensor] = {}
    for alike in by_kind(sorted(rows, key=lambda row: row.length)):
        for i in range(0, len(alike), BATCH_SIZE):
            batch = collate(alike[i : i + BATCH_SIZE], padding_of(stages), stages.device)
            # Images must have the precision of the checkpoint.
            inputs = {k: v.to(stages.dtype) if v.is_floating_point() else v for k, v in batch.inputs.items()}
            logits = call(inputs).float().cpu()
            found |= {row.place: each for row, each in zip(batch.rows, logits, strict=True)}
    return torch.stack([found[row.place] for row in rows])
