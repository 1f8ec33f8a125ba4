# SPDX-License-Identifier: Apache-2.0
"""Times of many methods on one machine that drifts: they take turns batch by batch, each on its own clock.

A machine may be 30 % slower from one second to the next, so that methods that run one after the other cannot be
compared. Here every method gets the same batch before any method gets the next one. The order of the turns changes
with every batch, so that no method always runs on the caches that the same other one left behind.
"""

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from transformers.utils import logging

from ..inference.engine import by_kind, padding_of
from ..inference.rows import Prediction, Row, collate
from .methods import Answerer, Method


class TurnClock(Protocol):
    """Something that is timed. A round is a `start` and all steps in turn."""

    def start(self, counts: bool) -> None:
        """A new round begins; the first, a warm-up, does not count."""

    def step(self, number: int) -> None:
        """Take one batch; the step after the last batch is for rows that still wait."""


class MethodClock:
    """The clock of a method: it runs only while the method does.

    Args:
        method ([`Method`]): that is timed.
        batches (`list[list[Row]]`): in its order.
        answerer ([`Answerer`]): what it made for this batch size.
        device (`torch.device`): that is waited for before the clock stops.

    Attributes:
        rounds (`list[list[float]]`): of each round that counts the seconds of each step.
        latencies (`list[float]`):
            Of every row in every round that counts: seconds on this clock from the start of the `put` that brought it
            to its answer.
        answers (`dict[int, Prediction]`): the last answer to each row, by its place.
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
            RuntimeError: a row has no answer.
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
    """Times of each stage alone, for all rows of a batch: what a method would need if splitting batches were free.

    Args:
        method ([`Method`]): one that runs these stages, in this order of rows.
        batches (`list[list[Row]]`): in that order; padded as they come.
        device (`torch.device`): that is waited for before the clock stops.

    Attributes:
        rounds (`list[list[list[float]]]`): of each round that counts, of each batch, the seconds of each stage.
    """

    def __init__(self, method: Method, batches: list[list[Row]], device: torch.device):
        self.method = method
        self.batches = batches
        assert method.stages is not None  # Others have no ideal.
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
                if not batch.has_tokens:
                    # After stage 0 one image stands for the size of all, as where rows leave.
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
    """Let all clocks take turns, batch by batch, in a warm-up round and `repeats` rounds that count.

    Args:
        clocks (`Sequence[TurnClock]`): they hold what was measured afterward.
        num_batches (`int`): batches that each of them has.
        repeats (`int`): rounds that count.
        seed (`int`, *optional*, defaults to 0): of the order of the turns.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        desc (`str`, *optional*): at its left.
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
    """What some work returns, and its seconds, those of the device included."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
