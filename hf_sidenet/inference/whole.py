# SPDX-License-Identifier: Apache-2.0
"""Batches that are answered in one go: by the model itself, whose gates drop rows, or by all stages for all rows."""

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from ..models.exit_rule import answers, route
from ..models.tasks import label_names
from .engine import by_kind, padding_of, predictions, row_error
from .halving import halved
from .protocols import StageChain
from .rows import Batch, Prediction, Row, collate


class WholeEngine:
    """An [`Engine`] in which no row waits.

    Args:
        stages ([`StageChain`]): names the classes, temperatures and the device.
        answer (`Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]`):
            A batch and θ of shape `(rows, num_sidenets)` → logits `(rows, num_labels)` and exit indices `(rows,)`.
    """

    waiting = 0
    since = math.inf

    def __init__(self, stages: StageChain, answer: Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]):
        self.stages = stages
        self.answer = answer
        self.pad = padding_of(stages)
        self.names = label_names(stages.config)
        self.temperatures = torch.tensor(stages.config.temperatures)

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer some rows."""
        done = []
        for alike in by_kind(rows):
            for part, outcome in halved(alike, self._answered):
                failed = isinstance(outcome, Exception)
                done += (
                    [Prediction(part[0].place, error=row_error(part[0].place, "failed", outcome))]
                    if failed
                    else outcome
                )
        return done

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Nothing waits."""
        return []

    def _answered(self, rows: list[Row]) -> list[Prediction]:
        batch = collate(rows, self.pad, self.stages.device)
        logits, exit_index = self.answer(batch, torch.tensor([row.thresholds for row in rows]))
        logits, exit_index = logits.float().cpu(), exit_index.cpu()
        sure = self.stages.task.confidence(logits, self.temperatures[exit_index].unsqueeze(1))
        return predictions(self.stages.task, self.names, rows, range(len(rows)), exit_index.tolist(), logits, sure)


def by_gates(model: PreTrainedModel) -> Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The model's own forward, in which rows leave."""

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(**batch.inputs, thresholds=thresholds)
        return output.logits, output.exit_index

    return answer


def by_all_stages(stages: StageChain) -> Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Every stage for every row; who answers is decided afterwards by the same rule."""

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exit_logits = all_exits(stages, batch.inputs)
        exit_index = route(exit_logits, thresholds.to(exit_logits.device), stages.config.temperatures, stages.task)
        return answers(exit_logits, exit_index), exit_index

    return answer


def all_exits(stages: StageChain, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of every exit for every row, in float32, of shape `(rows, num_exits, num_labels)`.

    Args:
        stages ([`StageChain`]): the chain.
        inputs (`dict[str, torch.Tensor]`): a batch.
    """
    hidden, columns = None, []
    for stage in range(len(stages)):
        hidden, logits = stages(stage, hidden, inputs)
        columns.append(logits.float())
    return torch.stack(columns, dim=1)
