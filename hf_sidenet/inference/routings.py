# SPDX-License-Identifier: Apache-2.0
"""The ways in which rows can go through the stages, and which of them is the fastest here."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from transformers import PreTrainedModel

from .engine import Engine
from .rows import Row
from .whole import WholeEngine, by_all_stages, by_gates


AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS = "auto", "pooled", "per_batch", "gates", "all_blocks"
ROUTINGS = (AUTO, POOLED, PER_BATCH, GATES, ALL_BLOCKS)
# A CPU's time per row hardly falls beyond.
FULL_LOAD = 32


def engines_of(
    stages, model: PreTrainedModel | None, *, pool_size: int, num_in_flight: int
) -> dict[str, Callable[[], Engine | WholeEngine]]:
    """What makes an engine, by routing.

    Args:
        stages ([`Stages`] or the like): the chain.
        model (`PreTrainedModel`, *optional*): the model that the stages are of, where its own forward runs as well.
        pool_size (`int`): see [`Engine`].
        num_in_flight (`int`): see [`Engine`].
    """
    makers: dict[str, Callable[[], Engine | WholeEngine]] = {
        POOLED: lambda: Engine(stages, pool_size=pool_size, num_in_flight=num_in_flight),
        PER_BATCH: lambda: Engine(stages, pool_size=1, num_in_flight=num_in_flight),
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
    makers: dict[str, Callable[[], Engine | WholeEngine]], batches: Sequence[Sequence[Row]], repeats: int = 3
) -> dict[str, float]:
    """Milliseconds per row of each routing on the same batches. They take turns, after a first round that is not
    counted (kernels are chosen and graphs compiled in it).

    Args:
        makers (`dict[str, Callable]`): of [`engines_of`].
        batches (`Sequence[Sequence[Row]]`): real rows.
        repeats (`int`, *optional*, defaults to 3): rounds, of which the median counts.
    """
    num_rows = sum(map(len, batches))
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(repeats + 1):
        for name, maker in makers.items():
            seconds[name].append(_time(maker(), batches))
    return {name: 1e3 * median(times[1:]) / num_rows for name, times in seconds.items()}


def _time(engine: Engine | WholeEngine, batches: Sequence[Sequence[Row]]) -> float:
    start = time.perf_counter()
    for batch in batches:
        engine.put(batch)
    # Every answer is on the host then, also that of a GPU.
    engine.flush()
    return time.perf_counter() - start
