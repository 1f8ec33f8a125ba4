# SPDX-License-Identifier: Apache-2.0
"""The ways in which rows can go through the stages, and which of them is the fastest here."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .engine import PoolingEngine
from .protocols import Engine
from .rows import Prediction, Row
from .whole import WholeEngine, by_all_stages, by_gates


logger = logging.get_logger(__name__)

AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS = "auto", "pooled", "per_batch", "gates", "all_blocks"
ROUTINGS = (AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS)
# A CPU's time per row hardly falls beyond.
FULL_LOAD = 32


def engines_of(
    stages, model: PreTrainedModel | None, *, pool_size: int, num_in_flight: int
) -> dict[str, Callable[[], Engine]]:
    """What makes an engine, by routing.

    Args:
        stages ([`StageChain`]): the chain; [`Served`] where there is none.
        model (`PreTrainedModel`, *optional*): the model that the stages are of, where its own forward runs as well.
        pool_size (`int`): see [`PoolingEngine`].
        num_in_flight (`int`): see [`PoolingEngine`].
    """
    makers: dict[str, Callable[[], Engine]] = {}
    if callable(stages):
        makers = {
            POOLED: lambda: PoolingEngine(stages, pool_size=pool_size, num_in_flight=num_in_flight),
            PER_BATCH: lambda: PoolingEngine(stages, pool_size=1, num_in_flight=num_in_flight),
            ALL_BLOCKS: lambda: WholeEngine(stages, by_all_stages(stages)),
        }
    if model is not None:
        makers[GATES] = lambda: WholeEngine(stages, by_gates(model))
    return makers


def full_batch(batch_size: int) -> int:
    """Rows with which a later stage is worth running, for batches of `batch_size` at stage 0."""
    return 1 if batch_size == 1 else max(batch_size, FULL_LOAD)


@torch.inference_mode()
def measure_routings(
    makers: dict[str, Callable[[], Engine]], batches: Sequence[Sequence[Row]], repeats: int = 3
) -> dict[str, float]:
    """Milliseconds per row of each routing on the same batches. They take turns, after a first round that is not
    counted (kernels are chosen and graphs compiled in it). A routing that fails on rows which another answers is left
    out, and the reason is logged.

    Args:
        makers (`dict[str, Callable]`): of [`engines_of`].
        batches (`Sequence[Sequence[Row]]`): real rows.
        repeats (`int`, *optional*, defaults to 3): rounds, of which the median counts.
    """
    num_rows = sum(map(len, batches))
    answered = {name: _answered(maker(), batches) for name, maker in makers.items()}
    errors = {name: [each.error for each in found if each.error is not None] for name, found in answered.items()}
    fewest = min(map(len, errors.values()))
    for name, found in errors.items():
        if len(found) > fewest:
            logger.warning("Rows do not go the way %r, where %d of %d fail: %s", name, len(found), num_rows, found[0])
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
    # Every answer is on the host then, also that of a GPU.
    return done + engine.flush()
