# SPDX-License-Identifier: Apache-2.0
"""A replica of one stage: runs the rows of many requests through it, and nothing else."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from serve_settings import Settings

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.data import load_processor
from hf_sidenet.export import OnnxStages
from hf_sidenet.inference import SingleStage, Stages
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.rows import Packet
from hf_sidenet.inference.single_stage import Step
from hf_sidenet.optional import require


serve = require("ray.serve", "ray")
metrics = require("ray.serve.metrics", "ray")

logger = logging.getLogger("ray.serve")

# Raw rows and θ of a request, or the output of the previous stage.
Item = tuple[list[Any], tuple[float, ...]] | Packet
BATCH_ROWS = [1, 2, 4, 8, 16, 32, 64, 128]
MILLISECONDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]


def num_rows(items: Sequence[Item]) -> int:
    """Count the rows of some requests together."""
    return sum(len(item) if isinstance(item, Packet) else len(item[0]) for item in items)


def load_stage(settings: Settings, index: int) -> SingleStage:
    """Load one stage of a checkpoint. For an exported one, only the stage's own file is opened."""
    threads = max(1, math.floor(settings.cpus))
    torch.set_num_threads(threads)
    if settings.is_exported:
        chain = OnnxStages.load(settings.checkpoint, num_threads=threads, only=index)
        processor = load_processor(settings.checkpoint, chain.modality) if index == 0 else None
    else:
        model, processor = load_checkpoint(settings.checkpoint, check=False)
        model.to("cuda" if settings.gpus else "cpu")
        chain = PlainChain(plain_mainnet(model)) if settings.plain else Stages(model)
    reader = RowReader(chain, processor, settings.max_length) if index == 0 else None
    return SingleStage(chain, index, batch_size=settings.batch_size, reader=reader)


class StageReplica:
    """A stage, as Ray Serve starts it.

    Args:
        settings ([`Settings`]): of the server.
        index (`int`): which stage.
    """

    def __init__(self, settings: Settings, index: int):
        self.stage = load_stage(settings, index)
        self._work = self.stage.go_on if index else self.stage.begin
        self._waiting = 0
        self._gauge = metrics.Gauge("sidenet_stage_waiting_rows", "rows waiting for a stage, or in it", ("stage",))
        self._rows = metrics.Histogram("sidenet_stage_batch_rows", "rows per batch", BATCH_ROWS, ("stage",))
        self._times = metrics.Histogram("sidenet_stage_ms", "milliseconds per batch", MILLISECONDS, ("stage",))
        for metric in (self._gauge, self._rows, self._times):
            metric.set_default_tags({"stage": str(index)})
        # A request is never larger than the maximum batch.
        self._batch.set_max_batch_size(max(settings.batch_size, settings.max_rows))
        self._batch.set_batch_wait_timeout_s(settings.max_wait_ms / 1e3)

    async def run(self, item: Item) -> Step:
        """Run the rows of one request through the stage, together with those of others."""
        count = num_rows([item])
        self._count(count)
        try:
            return await self._batch(item)
        finally:
            self._count(-count)

    async def ready(self) -> bool:
        """Return once the stage is loaded."""
        return True

    def _count(self, change: int) -> None:
        self._waiting += change
        self._gauge.set(self._waiting)

    @serve.batch(batch_size_fn=num_rows)
    async def _batch(self, items: list[Item]) -> list[Step]:
        # In a thread: rows that arrive meanwhile form the next batch.
        return await asyncio.to_thread(self._timed, items)

    def _timed(self, items: list[Item]) -> list[Step]:
        start = time.perf_counter()
        steps = self._work(items)
        self._times.observe(1e3 * (time.perf_counter() - start))
        self._rows.observe(num_rows(items))
        for step in steps:
            for prediction in step.failed:
                logger.error("%s", prediction.error, exc_info=prediction.error.__cause__)
            for prediction in step.answered:
                # They are not needed, and tensors are expensive to send.
                prediction.logits = None
        return steps
