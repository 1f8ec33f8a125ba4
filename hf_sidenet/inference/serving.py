# SPDX-License-Identifier: Apache-2.0
"""Rows of many callers, one by one, through one engine in a thread of its own."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .reading import RowReader
from .rows import Prediction, Row


@dataclass(slots=True, eq=False)
class _Request:
    raw: Any
    thresholds: tuple[float, ...]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future
    came: float = field(default_factory=time.monotonic)


class Worker:
    """Takes rows until it is closed; those it has taken are all answered.

    Args:
        make_engine (`Callable[[], Engine]`): called in the worker's thread.
        reader ([`RowReader`]): of rows.
        batch_size (`int`): rows of stage 0.
        max_wait (`float`): seconds that a row waits for others, at every stage.
        max_waiting_rows (`int`): rows inside; more have to wait in [`submit`].
    """

    def __init__(
        self,
        make_engine: Callable[[], Any],
        reader: RowReader,
        *,
        batch_size: int,
        max_wait: float,
        max_waiting_rows: int,
    ):
        self.make_engine = make_engine
        self.reader = reader
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.max_waiting_rows = max_waiting_rows
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._outside: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future]] = deque()
        self._inside: dict[int, _Request] = {}
        self._places = 0
        self._closing = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="hf_sidenet runner", daemon=True)
        self._thread.start()

    async def submit(self, raw: Any, thresholds: tuple[float, ...]) -> Prediction:
        """The answer to one row; waits while too many are inside.

        Raises:
            RowError: the row cannot be answered.
            RuntimeError: the runner is closed, or broke.
        """
        loop = asyncio.get_running_loop()
        request = _Request(raw, thresholds, loop, loop.create_future())
        while (turn := self._offer(request)) is not None:
            try:
                await turn
            except asyncio.CancelledError:
                self._give_up(turn)
                raise
        prediction = await request.answer
        if prediction.error is not None:
            raise prediction.error
        return prediction

    def close(self) -> None:
        """Answer what was taken, refuse what comes, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._let_in(len(self._outside))

    def _offer(self, request: _Request) -> asyncio.Future | None:
        """None: it was taken; else what to wait for before trying again."""
        with self._changed:
            if self._broken is not None:
                raise RuntimeError("the runner broke and takes no rows.") from self._broken
            if self._closing:
                raise RuntimeError("the runner is closed and takes no rows.")
            if len(self._inside) < self.max_waiting_rows:
                self._inside[self._places] = request
                self._places += 1
                self._queue.append(request)
                if len(self._queue) in (1, self.batch_size):
                    self._changed.notify()
                return None
            turn = request.loop.create_future()
            self._outside.append((request.loop, turn))
            return turn

    def _let_in(self, count: int) -> None:
        with self._changed:
            turns = [self._outside.popleft() for _ in range(min(count, len(self._outside)))]
        for loop, turn in turns:
            _resolve(loop, [(turn, None)])

    def _give_up(self, turn: asyncio.Future) -> None:
        with self._changed:
            waits = [pair for pair in self._outside if pair[1] is not turn]
            called = len(waits) == len(self._outside)
            self._outside = deque(waits)
        if called:
            # It had its turn, which goes to the next.
            self._let_in(1)

    def _serve(self) -> None:
        try:
            engine = self.make_engine()
            place = 0
            while (requests := self._gather(engine.since)) is not None:
                places = range(place, place + len(requests))
                place += len(requests)
                with torch.inference_mode():
                    self._answer(self._step(engine, places, requests))
        except BaseException as error:
            with self._changed:
                self._broken = error
                left, self._queue = list(self._inside), deque()
            self._answer([Prediction(place, error=_broke(error)) for place in left])
            self._let_in(len(self._outside))

    def _step(self, engine: Any, places: range, requests: list[_Request]) -> list[Prediction]:
        read = self.reader.read(
            places, [request.raw for request in requests], [request.thresholds for request in requests]
        )
        rows = [row for row in read if isinstance(row, Row)]
        done = [Prediction(p, error=e) for p, e in zip(places, read, strict=True) if not isinstance(e, Row)]
        if rows:
            done += engine.put(sorted(rows, key=lambda row: row.length))
        with self._changed:
            hurry = self._closing and not self._queue
        return done + engine.flush(time.monotonic() if hurry else time.monotonic() - self.max_wait)

    def _gather(self, since: float) -> list[_Request] | None:
        """Requests for a batch: none where rows inside have waited long enough, `None` at the end."""
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
        answers: dict[asyncio.AbstractEventLoop, list] = {}
        with self._changed:
            for prediction in done:
                request = self._inside.pop(prediction.place)
                answers.setdefault(request.loop, []).append((request.answer, prediction))
        for loop, pairs in answers.items():
            _resolve(loop, pairs)
        self._let_in(len(done))


def _broke(error: BaseException) -> RuntimeError:
    failure = RuntimeError(f"the runner broke: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _resolve(loop: asyncio.AbstractEventLoop, pairs: list[tuple[asyncio.Future, Any]]) -> None:
    def resolve() -> None:
        for future, value in pairs:
            # Its caller may have gone.
            if not future.done():
                future.set_result(value)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError:
        # The loop of the caller is closed: nobody waits.
        return
