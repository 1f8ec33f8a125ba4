# SPDX-License-Identifier: Apache-2.0
"""Routings: how rows run through the stages, waiting for full batches or not, and which routing is fastest here."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import cast

import torch
from transformers.utils import logging

from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import answers, chain_exits, route
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from .engine import PoolingEngine, by_kind, halved, padding_of, predictions, row_error
from .protocols import Engine, ServedModel, StageChain
from .rows import Batch, Prediction, Row, collate


logger = logging.get_logger(__name__)
AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS = "auto", "pooled", "per_batch", "gates", "all_blocks"
ROUTINGS = (AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS)
# Beyond this batch size, a CPU's time per row hardly decreases.
FULL_LOAD = 32


class WholeEngine:
    """[`Engine`] in which no row waits.

    Args:
        stages ([`ServedModel`]): defines the classes, temperatures and device.
        answer (`Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]`):
            Maps a batch and θ of shape `(rows, num_sidenets)` to logits `(rows, num_labels)` and exit indices
            `(rows,)`.
    """

    waiting = 0
    since = math.inf

    def __init__(
        self, stages: ServedModel, answer: Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    ):
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
                done += (
                    [Prediction(part[0].place, error=row_error(part[0].place, "failed", outcome))]
                    if isinstance(outcome, Exception)
                    else outcome
                )
        return done

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Return nothing, because no row waits."""
        return []

    def _answered(self, rows: Sequence[Row]) -> list[Prediction]:
        batch = collate(rows, self.pad, self.stages.device)
        logits, exit_index = self.answer(batch, torch.tensor([row.thresholds for row in rows]))
        logits, exit_index = logits.float().cpu(), exit_index.cpu()
        sure = self.stages.task.confidence(logits, self.temperatures[exit_index].unsqueeze(1))
        return predictions(self.stages.task, self.names, rows, range(len(rows)), exit_index.tolist(), logits, sure)


def by_gates(model: SideNetPreTrainedModel) -> Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Answer with the model's own forward, in which rows exit."""

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(**batch.inputs, thresholds=thresholds)
        return output.logits, output.exit_index

    return answer


def by_all_stages(stages: StageChain) -> Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Answer by running every stage on every row and applying the exit rule afterward."""

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exit_logits = all_exits(stages, batch.inputs)
        exit_index = route(exit_logits, thresholds.to(exit_logits.device), stages.config.temperatures, stages.task)
        return answers(exit_logits, exit_index), exit_index

    return answer


def all_exits(stages: StageChain, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of every exit for every row, in float32, of shape `(rows, num_exits, num_labels)`.

    Args:
        stages ([`StageChain`]): the chain.
        inputs (`dict[str, torch.Tensor]`): a batch.
    """
    hidden, columns = None, []
    for stage in range(len(stages)):
        hidden, logits = stages(stage, hidden, inputs)
        columns.append(logits.float())
    return torch.stack(chain_exits(columns, chain_of(stages.config)), dim=1)


def engines_of(
    stages: ServedModel, model: SideNetPreTrainedModel | None, *, pool_size: int, num_in_flight: int
) -> dict[str, Callable[[], Engine]]:
    """Return a factory of engines for each available routing.

    Args:
        stages ([`ServedModel`]): the chain; [`Served`] if there is none.
        model ([`SideNetPreTrainedModel`], *optional*): the model behind the stages, if its own forward can run too.
        pool_size (`int`): see [`PoolingEngine`].
        num_in_flight (`int`): see [`PoolingEngine`].
    """
    makers: dict[str, Callable[[], Engine]] = {}
    if callable(stages):
        chain = cast(StageChain, stages)
        makers = {
            POOLED: lambda: PoolingEngine(chain, pool_size=pool_size, num_in_flight=num_in_flight),
            PER_BATCH: lambda: PoolingEngine(chain, pool_size=1, num_in_flight=num_in_flight),
            ALL_BLOCKS: lambda: WholeEngine(chain, by_all_stages(chain)),
        }
    if model is not None:
        makers[GATES] = lambda: WholeEngine(stages, by_gates(model))
    return makers


def full_batch(batch_size: int) -> int:
    """Return the rows of a full batch at a later stage, for batches of `batch_size` at stage 0."""
    return 1 if batch_size == 1 else max(batch_size, FULL_LOAD)


@torch.inference_mode()
def measure_routings(
    makers: dict[str, Callable[[], Engine]], batches: Sequence[Sequence[Row]], repeats: int = 3
) -> dict[str, float]:
    """Measure the milliseconds per row of each routing on the same batches.

    Routings alternate, after a warm-up round that selects kernels and compiles graphs. A routing that fails on rows
    that another one answers is left out, and the reason is logged.

    Args:
        makers (`dict[str, Callable]`): factories from [`engines_of`].
        batches (`Sequence[Sequence[Row]]`): real rows.
        repeats (`int`, *optional*, defaults to 3): rounds, whose median is used.
    """
    num_rows = sum(map(len, batches))
    answered = {name: _answered(maker(), batches) for name, maker in makers.items()}
    errors = {name: [each.error for each in found if each.error is not None] for name, found in answered.items()}
    fewest = min(map(len, errors.values()))
    for name, found in errors.items():
        if len(found) > fewest:
            logger.warning(
                "Routing %r is left out, because %d of %d rows fail: %s", name, len(found), num_rows, found[0]
            )
    seconds: dict[str, list[float]] = {name: [] for name, found in errors.items() if len(found) == fewest}
    for _ in range(repeats):
        for name in seconds:
            start = time.perf_counter()
            _answered(makers[name](), batches)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * median(times) / num_rows for name, times in seconds.items()}


def _answered(engine: Engine, batches: Sequence[Sequence[Row]]) -> list[Prediction]:
    done = []
    for batch in batches:
        done += engine.put(batch)
    # Flushing ensures that every answer is on the host, also with a GPU.
    return done + engine.flush()
