# SPDX-License-Identifier: Apache-2.0
"""Serve single rows of many callers with one engine in its own thread."""

import asyncio
import math
import os
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from .protocols import Engine
from .rows import Prediction, Row
from .settled import Settled


@dataclass(slots=True, eq=False)
class _Request:
    raw: Any
    thresholds: tuple[float, ...] | None
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future
    came: float = field(default_factory=time.monotonic)
    place: int = -1


class Worker:
    """Accepts rows until it is closed, and answers every row it has accepted.

    Args:
        settled ([`Settled`]): the model and its engines.
        routing (`str`): routing of the engine.
        batch_size (`int`): rows per batch at stage 0.
        max_wait (`float`): seconds that a row waits for others at every stage.
        max_waiting_rows (`int`): maximum rows inside; others wait in [`submit`].
    """

    def __init__(self, settled: Settled, routing: str, *, batch_size: int, max_wait: float, max_waiting_rows: int):
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.max_waiting_rows = max_waiting_rows
        self._now = (settled, routing)
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        # Keeps order, with fast removal of a request that gives up.
        self._outside: OrderedDict[_Request, None] = OrderedDict()
        self._inside: dict[int, _Request] = {}
        self._places = 0
        self._closing = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="hf_sidenet runner", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether its thread is in this process."""
        return os.getpid() == self._process

    async def submit(self, raw: Any, thresholds: tuple[float, ...] | None) -> Prediction:
        """Answer one row; waits while too many are inside.

        Args:
            raw (`Any`): the row.
            thresholds (`tuple[float, ...]`, *optional*): its θ, by default the current model's.

        Raises:
            RowError: the row cannot be answered.
            RuntimeError: the runner is closed or broke.
        """
        loop = asyncio.get_running_loop()
        request = _Request(raw, thresholds, loop, loop.create_future())
        self._take(request)
        try:
            prediction = await request.answer
        except BaseException:
            with self._changed:
                self._outside.pop(request, None)
            raise
        if prediction.error is not None:
            raise prediction.error
        return prediction

    def update(self, settled: Settled, routing: str) -> None:
        """Switch the model for rows read from now on.

        Args:
            settled ([`Settled`]): the model and its engines.
            routing (`str`): routing of the engine.
        """
        with self._changed:
            self._now = (settled, routing)

    def end(self) -> None:
        """Reject new and waiting requests; answer accepted rows, then stop the thread. Does not block."""
        if not self.is_here:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
            refused = self._refused()
        _resolve(refused)

    def close(self) -> None:
        """Call [`end`] and wait for the thread."""
        self.end()
        self._thread.join()

    def _take(self, request: _Request) -> None:
        """Accept a request, or queue it until there is room."""
        with self._changed:
            if (refusal := self._refusal()) is not None:
                raise refusal
            self._outside[request] = None
            self._let_in()

    def _refusal(self) -> RuntimeError | None:
        if self._broken is not None:
            refusal = RuntimeError("the runner broke and accepts no rows.")
            refusal.__cause__ = self._broken
            return refusal
        return RuntimeError("the runner is closed and accepts no rows.") if self._closing else None

    def _let_in(self) -> None:
        """Accept waiting requests in order while there is room, skipping those whose event loop is closed."""
        while self._outside and len(self._inside) < self.max_waiting_rows:
            request, _ = self._outside.popitem(last=False)
            if request.loop.is_closed():
                continue
            request.place = self._places
            self._places += 1
            self._inside[request.place] = request
            self._queue.append(request)
            if len(self._queue) in (1, self.batch_size):
                self._changed.notify()

    def _refused(self) -> list[tuple[_Request, Prediction]]:
        """Remove all waiting requests and return them with their error."""
        outside, self._outside = self._outside, OrderedDict()
        return [(request, Prediction(request.place, error=self._refusal())) for request in outside]

    def _serve(self) -> None:
        try:
            now: tuple[Settled, str] | None = None
            engine: Engine | None = None
            while (requests := self._gather(math.inf if engine is None else engine.since)) is not None:
                with torch.inference_mode():
                    if now is None or engine is None or now is not self._now:
                        # Rows already read are answered by the old engine.
                        self._answer([] if engine is None else engine.flush())
                        now = self._now
                        engine = now[0].makers[now[1]]()
                    self._answer(self._step(now[0], engine, requests))
        except BaseException as error:
            with self._changed:
                self._broken = error
                left, self._queue = list(self._inside), deque()
                refused = self._refused()
            self._answer([Prediction(place, error=_broke(error)) for place in left])
            _resolve(refused)

    def _step(self, settled: Settled, engine: Engine, requests: list[_Request]) -> list[Prediction]:
        places = [request.place for request in requests]
        thresholds = [request.thresholds or settled.thresholds for request in requests]
        read = settled.reader.read(places, [request.raw for request in requests], thresholds)
        rows = [row for row in read if isinstance(row, Row)]
        done = [Prediction(p, error=e) for p, e in zip(places, read, strict=True) if not isinstance(e, Row)]
        if rows:
            done += engine.put(sorted(rows, key=lambda row: row.length))
        with self._changed:
            hurry = self._closing and not self._queue
        return done + engine.flush(time.monotonic() if hurry else time.monotonic() - self.max_wait)

    def _gather(self, since: float) -> list[_Request] | None:
        """Wait for the requests of a batch: none if rows inside have waited long enough, `None` at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                oldest = min(since, self._queue[0].came if self._queue else float("inf"))
                full = len(self._queue) >= self.batch_size
                if full or self._closing or oldest + self.max_wait <= now:
                    break
                self._changed.wait(None if oldest == float("inf") else oldest + self.max_wait - now)
            if self._closing and not self._inside:
                return None
            return [self._queue.popleft() for _ in range(min(self.batch_size, len(self._queue)))]

    def _answer(self, done: list[Prediction]) -> None:
        with self._changed:
            answered = [(self._inside.pop(prediction.place), prediction) for prediction in done]
            self._let_in()
        _resolve(answered)


def _broke(error: BaseException) -> RuntimeError:
    failure = RuntimeError(f"the runner broke: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _resolve(answered: list[tuple[_Request, Prediction]]) -> None:
    of_loops: dict[asyncio.AbstractEventLoop, list[tuple[_Request, Prediction]]] = {}
    for request, prediction in answered:
        of_loops.setdefault(request.loop, []).append((request, prediction))
    for loop, pairs in of_loops.items():
        # The caller's loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_set_answers, pairs)


def _set_answers(pairs: list[tuple[_Request, Prediction]]) -> None:
    for request, prediction in pairs:
        # The caller may have given up.
        if not request.answer.done():
            request.answer.set_result(prediction)
