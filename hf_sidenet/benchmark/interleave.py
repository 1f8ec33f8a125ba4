# SPDX-License-Identifier: Apache-2.0
"""Timing of many methods on a machine that drifts: they are interleaved batch by batch, each on its own clock.

A machine may become 30 % slower from one second to the next, so methods that run one after the other cannot be
compared. Here every method gets the same batch before any method gets the next one. The order changes with every
batch, so no method always runs with the caches left by the same other method.
"""

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers.utils import logging

from ..inference.engine import by_kind, padding_of
from ..inference.rows import Batch, Prediction, Row, collate
from .methods import Answerer, Method


class TurnClock(Protocol):
    """Something to time. A round is a `start` followed by all steps in order."""

    def start(self, counts: bool) -> None:
        """Begin a new round; the first is a warm-up and does not count."""

    def step(self, number: int) -> None:
        """Process one batch; the step after the last batch is for rows still waiting."""


class MethodClock:
    """Clock of a method, which runs only while the method does.

    Args:
        method ([`Method`]): method to time.
        batches (`list[list[Row]]`): batches in the order of the method.
        answerer ([`Answerer`]): what the method made for this batch size.
        device (`torch.device`): device to synchronize before the clock stops.

    Attributes:
        rounds (`list[list[float]]`): seconds of each step in each counted round.
        latencies (`list[float]`):
            For every row in every counted round, seconds on this clock from the start of the `put` that brought the
            row to its answer.
        answers (`dict[int, Prediction]`): the last answer to each row, by place.
    """

    def __init__(self, method: Method, batches: list[list[Row]], answerer: Answerer, device: torch.device):
        self.method = method
        self.batches = batches
        self.answerer = answerer
        self.device = device
        self.rounds: list[list[float]] = []
        self.latencies: list[float] = []
        self.answers: dict[int, Prediction] = {}
        self._seconds: list[float] = []
        self._came: dict[int, float] = {}
        self._now = 0.0
        self._counts = False

    def start(self, counts: bool) -> None:
        """See [`TurnClock`]."""
        self._seconds, self._came, self._now, self._counts = [], {}, 0.0, counts
        self.answers = {}

    def step(self, number: int) -> None:
        """See [`TurnClock`].

        Raises:
            RuntimeError: a row failed or has no answer.
        """
        last = number == len(self.batches)
        rows = [] if last else self.method.rows(self.batches[number])
        self._came |= dict.fromkeys((row.place for row in rows), self._now)
        done, seconds = timed(self.answerer.flush if last else lambda: self.answerer.put(rows), self.device)
        self._now += seconds
        self._seconds.append(seconds)
        for prediction in done:
            if prediction.error is not None:
                raise RuntimeError(f"{self.method.name}: {prediction.error}") from prediction.error
            self.answers[prediction.place] = prediction
            if self._counts:
                self.latencies.append(self._now - self._came[prediction.place])
        if last:
            self._finish()

    def _finish(self) -> None:
        missing = len(self._came) - len(self.answers)
        if missing:
            raise RuntimeError(f"{self.method.name} has no answer for {missing} of {len(self._came)} rows.")
        if self._counts:
            self.rounds.append(self._seconds)


class StageClock:
    """Clock of each stage alone, for all rows of a batch: the time a method would need if splitting batches were free.

    Args:
        method ([`Method`]): a method that runs these stages, in this order of rows.
        batches (`list[list[Row]]`): batches in that order, padded as they are.
        device (`torch.device`): device to synchronize before the clock stops.

    Attributes:
        rounds (`list[list[list[float]]]`): seconds of each stage on each batch in each counted round.
    """

    def __init__(self, method: Method, batches: list[list[Row]], device: torch.device):
        self.method = method
        self.batches = batches
        assert method.stages is not None  # Methods without stages have no ideal.
        self.stages = method.stages()
        self.device = device
        self.pad = padding_of(self.stages)
        self.rounds: list[list[list[float]]] = []
        self._seconds: list[list[float]] = []
        self._counts = False

    def start(self, counts: bool) -> None:
        """See [`TurnClock`]."""
        self._seconds, self._counts = [], counts

    def step(self, number: int) -> None:
        """See [`TurnClock`]."""
        if number == len(self.batches):
            if self._counts:
                self.rounds.append(self._seconds)
            return
        totals = [0.0] * len(self.stages)
        for alike in by_kind(self.method.rows(self.batches[number])):
            batch = collate(alike, self.pad, self.device)
            inputs, hidden = batch.inputs, None
            for k in range(len(self.stages)):
                (hidden, _), seconds = timed(lambda: self.stages(k, hidden, inputs), self.device)  # noqa: B023
                totals[k] += seconds
                if Batch(batch.rows, inputs, hidden).one_for_all:
                    # After a block only the size of the images matters, so one is enough, as when rows exit.
                    inputs = {name: value[:1] for name, value in inputs.items()}
        self._seconds.append(totals)


@torch.inference_mode()
def interleave(
    clocks: Sequence[TurnClock],
    num_batches: int,
    *,
    repeats: int,
    seed: int = 0,
    progress: bool = True,
    desc: str = "",
) -> None:
    """Interleave all clocks batch by batch, in a warm-up round and `repeats` counted rounds.

    Args:
        clocks (`Sequence[TurnClock]`): clocks, which hold the measurements afterward.
        num_batches (`int`): number of batches of each clock.
        repeats (`int`): number of counted rounds.
        seed (`int`, *optional*, defaults to 0): seed of the order within a step.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        desc (`str`, *optional*): text left of the progress bar.
    """
    chance, order = random.Random(seed), list(clocks)
    total = (repeats + 1) * (num_batches + 1)
    collecting = gc.isenabled()
    try:
        with logging.tqdm(total=total, desc=desc, disable=not progress) as bar:
            for number in range(repeats + 1):
                gc.collect()
                gc.disable()
                for clock in order:
                    clock.start(counts=number > 0)
                for step in range(num_batches + 1):
                    chance.shuffle(order)
                    for clock in order:
                        clock.step(step)
                    bar.update()
    finally:
        if collecting:
            gc.enable()


def timed(work: Callable, device: torch.device) -> tuple:
    """Return the result of `work` and its seconds, including time on the device."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
