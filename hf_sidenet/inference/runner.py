# SPDX-License-Identifier: Apache-2.0
"""The runner: rows in, answers out in their order, with skipped blocks turned into saved time."""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from transformers.utils import logging

from ..data.formats import Processor
from ..models.errors import ArgumentError
from ..models.exit_rule import lets_rows_leave
from ..models.modeling_base import SideNetPreTrainedModel
from .protocols import Engine, ServedModel, StageChain
from .reading import RowReader, check_rows
from .routings import ALL_BLOCKS, AUTO, GATES, POOLED, ROUTINGS, full_batch, measure_routings
from .rows import Prediction, Row, evenly_spaced
from .serving import Worker
from .settled import Settled


logger = logging.get_logger(__name__)

# Rows that are read ahead to be sorted by length, in batches.
LOOKAHEAD = 32
# Rows to measure on: a later stage shall have a full batch or two.
SAMPLE = 64
MAX_WAIT_MS = 10.0


class Line:
    """Predictions that come in any order leave in the order of their rows."""

    def __init__(self, on_error: str, total: int | None, progress: bool):
        self.raises = on_error == "raise"
        self.place = 0
        self.failed = 0
        self._done: dict[int, Prediction] = {}
        self._bar = logging.tqdm(total=total, desc="Predicting", disable=not progress)

    def add(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            self._done[prediction.place] = prediction

    def next(self) -> Iterator[Prediction]:
        while self.place in self._done:
            prediction = self._done.pop(self.place)
            if prediction.error is not None and self.raises:
                raise prediction.error
            self.failed += prediction.error is not None
            self.place += 1
            self._bar.update()
            yield prediction

    def end(self) -> None:
        self._bar.close()
        if self.failed:
            logger.warning(
                "%d of %d rows have no answer; `error` of their predictions says why.", self.failed, self.place
            )


def take(source: Iterator[Any], size: int) -> tuple[list[Any], Exception | None]:
    """The next rows, and the error at which their source broke off: those before it are answered first."""
    raw = []
    try:
        raw.extend(islice(source, size))
    except Exception as error:
        return raw, error
    return raw, None


class SideNetRunner:
    """Answers rows with early exits, and turns skipped FLOPs into saved wall-clock time.

    Rows that are sure leave after a stage; the others wait until the next stage has a full batch, whatever batch they
    came in. Texts are sorted by length within a window, so that little padding is computed. At the start it measures,
    on the first rows, whether dropping rows pays here and how, and does what is fastest. The answer to a row depends
    neither on other rows nor on the way that was chosen.

    What the model's config says when the runner is made holds until [`update`]. The weights are shared: while the
    model is in training mode every call is refused. Several threads may call one runner.

    Args:
        model ([`SideNetPreTrainedModel`], [`OnnxStages`] or [`Stages`]): in evaluation mode. It is not changed.
        processor (tokenizer or image processor, *optional*): for raw texts, pairs of texts and images.
        batch_size (`int`, *optional*, defaults to 64): rows of stage 0.
        thresholds (`float` or `list[float]`, *optional*): θ, by default the model's.
        pool_size (`int`, *optional*):
            Rows of a full batch at a later stage. By default `batch_size`, at least 32; 1 for a batch size of 1.
        routing (`str`, *optional*, defaults to `"auto"`):
            `"pooled"`, as above; `"per_batch"`: those who stay go on at once; `"gates"`: the model's own forward;
            `"all_blocks"`: all rows run through all blocks and get the answers of the exits. `"auto"` measures, and
            takes none that fails.
        compile (`bool` or `dict[str, Any]`, *optional*, defaults to `False`):
            Compile every stage by itself; a dict has arguments of `torch.compile`.
        dtype (`torch.dtype`, *optional*): run a copy of the model in this precision. θ must have been certified in it.
        max_length (`int`, *optional*): raw texts are cut to it, in tokens.
        max_wait_ms (`float`, *optional*, defaults to 10): how long a row of [`submit`] waits for others, at a stage.
        max_waiting_rows (`int`, *optional*): rows inside at a time with [`submit`]; by default 16 batches.

    Raises:
        StagesError: `routing` or `compile` needs stages, and this MainNet has none: `"gates"` is its only way.
        ValueError: an argument has an impossible value.
    """

    def __init__(
        self,
        model: SideNetPreTrainedModel | StageChain,
        processor: Processor | None = None,
        batch_size: int = 64,
        *,
        thresholds: float | Sequence[float] | None = None,
        pool_size: int | None = None,
        routing: str = AUTO,
        compile: bool | dict[str, Any] = False,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        max_wait_ms: float = MAX_WAIT_MS,
        max_waiting_rows: int | None = None,
    ):
        for name, value in (
            ("batch_size", batch_size),
            ("pool_size", pool_size),
            ("max_length", max_length),
            ("max_waiting_rows", max_waiting_rows),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(name, "must be a whole number ≥ 1", value)
        if not 0 <= max_wait_ms < float("inf"):
            raise ArgumentError("max_wait_ms", "must be ≥ 0 and finite", max_wait_ms)
        if routing not in ROUTINGS:
            raise ArgumentError("routing", f"must be one of {ROUTINGS}", routing)
        self._settle = partial(
            Settled,
            routing=routing,
            compile=compile,
            dtype=dtype,
            max_length=max_length,
            pool_size=pool_size or full_batch(batch_size),
        )
        self._settled = self._settle(model, thresholds, processor=processor)
        self.batch_size = batch_size
        self.routing = routing
        self.times: dict[str, float] = {}
        self.max_wait = max_wait_ms / 1e3
        self.max_waiting_rows = max_waiting_rows or 16 * batch_size
        self._worker: Worker | None = None
        self._is_closed = False
        self._process = os.getpid()
        # Of each process its own: a thread that is not in a forked one may have held the other's.
        self._locks: dict[int, threading.Lock] = {}

    @property
    def stages(self) -> ServedModel:
        """The chain of stages that answers; of a model that has none what a runner knows of it."""
        return self._settled.stages

    @property
    def reader(self) -> RowReader:
        """What reads rows."""
        return self._settled.reader

    @property
    def thresholds(self) -> tuple[float, ...]:
        """θ of each SideNet, of rows that come without."""
        return self._settled.thresholds

    @property
    def not_certified(self) -> str | None:
        """Why the evidence behind the model's θ is not about what answers here; `None` where it is, or where there is
        none. The weights are read when it is first asked for, by [`predict`], [`start`] or [`update`]."""
        return self._settled.not_certified

    def update(
        self, model: SideNetPreTrainedModel | StageChain, thresholds: float | Sequence[float] | None = None
    ) -> None:
        """Go on with other weights, θ or temperatures. Rows that are inside are answered by what was there when they
        were read; those that come later by what is there then. No row is answered by some of both.

        Args:
            model ([`SideNetPreTrainedModel`], [`OnnxStages`] or [`Stages`]):
                May be the one of before, with a changed config. Other weights come in another model: those of the one
                that answers are shared, and must not be changed.
            thresholds (`float` or `list[float]`, *optional*): θ, by default the model's, not those of before.

        Raises:
            ValueError: it is of another architecture or has other exits, classes or inputs; the message names which.
        """
        settled = self._settle(model, thresholds, processor=self.reader.processor)
        settled.check_replaces(self._settled)
        settled.tell_not_certified()
        with self._entered():
            self._settled = settled
            if self._worker is not None:
                self._worker.update(settled, self.chosen)

    def predict(
        self,
        rows: Iterable[Any],
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
        *,
        on_error: str = "return",
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Answers, in the order of the rows. Memory does not grow with their number.

        Args:
            rows (`Iterable`): dicts of model inputs, not padded; with a `processor` also texts, pairs or images. One
                text, one dict or a DataFrame is refused: its letters, keys or columns are no rows.
            thresholds (`float`, `list[float]` or `torch.Tensor` of shape `(rows, num_sidenets)`, *optional*):
                θ for these rows.
            on_error (`str`, *optional*, defaults to `"return"`):
                A row that cannot be answered gets a [`Prediction`] with its `error`; `"raise"` raises it in its turn.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.

        Raises:
            ValueError: an argument has an impossible value.
            RowError: a row cannot be answered, with `on_error="raise"`.
        """
        check_rows(rows)
        with self._entered():
            settled = self._settled
        settled.check_mode()
        settled.tell_not_certified()
        if on_error not in ("return", "raise"):
            raise ArgumentError("on_error", "must be 'return' or 'raise'", on_error)
        per_row = thresholds if isinstance(thresholds, torch.Tensor) and thresholds.dim() == 2 else None
        shared = None
        if per_row is None and thresholds is not None:
            shared = settled.reader.thresholds(thresholds)
        total = len(rows) if isinstance(rows, Sized) else None
        if per_row is not None and total not in (None, len(per_row)):
            raise ArgumentError("thresholds", f"must have one row per row, {total}, got {len(per_row)}")
        return self._predict(rows, shared, per_row, on_error, total, progress)

    async def submit(self, row: Any, thresholds: float | Sequence[float] | None = None) -> Prediction:
        """The answer to one row, for servers: rows of many callers and event loops share the batches. It waits while
        `max_waiting_rows` are inside.

        Args:
            row (`Any`): see [`predict`].
            thresholds (`float` or `list[float]`, *optional*): θ for this row.

        Raises:
            RowError: the row cannot be answered.
            RuntimeError: the runner is closed.
        """
        settled = self._settled
        settled.check_mode()
        given = None if thresholds is None else settled.reader.thresholds(thresholds)
        worker = self._worker
        if worker is None or not worker.is_here:
            worker = self._started()
        return await worker.submit(row, given)

    def start(self, sample: Iterable[Any] | None = None) -> "SideNetRunner":
        """Start the thread that [`submit`] uses. A process that is forked afterward starts its own.

        Args:
            sample (`Iterable`, *optional*): rows to measure on before, see [`measure`].

        Raises:
            RuntimeError: the runner is closed.
        """
        if sample is not None:
            self.measure(sample)
        self._started()
        return self

    def close(self) -> None:
        """Answer the rows that were taken, then end the thread of [`submit`]; it takes no more."""
        with self._entered():
            self._is_closed, worker = True, self._worker
        if worker is not None:
            worker.close()

    def _started(self) -> Worker:
        """The worker, of which there is one however many ask."""
        with self._entered():
            if self._is_closed:
                raise RuntimeError("the runner is closed and takes no rows.")
            if self._worker is None:
                self._settled.tell_not_certified()
                worker = Worker(
                    self._settled,
                    self.chosen,
                    batch_size=self.batch_size,
                    max_wait=self.max_wait,
                    max_waiting_rows=self.max_waiting_rows,
                )
                # Nothing in the thread holds the runner: one that nobody closes ends with its last user.
                weakref.finalize(self, worker.end).atexit = False
                self._worker = worker
            return self._worker

    def __enter__(self) -> "SideNetRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """One thread at a time; where the process was forked, without the threads that are not in it."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if os.getpid() != self._process:
                self._leave_threads_behind()
            yield

    def _leave_threads_behind(self) -> None:
        self._process = os.getpid()
        # Its rows are the other process's, which answers them.
        self._worker = None
        threads = torch.get_num_threads()
        if threads > 1:
            # OpenMP would deadlock, waiting for threads of the other process.
            torch.set_num_threads(1)
            logger.warning(
                "This process was forked from the one in which the runner was made, and torch's %d threads are not in "
                "it: it computes with one from here on. A runner that is made in the process itself has all.",
                threads,
            )

    def measure(self, rows: Iterable[Any], repeats: int = 3) -> dict[str, float]:
        """Milliseconds per row of each way on these rows, kept in `times`; the fastest is taken from now on.

        Args:
            rows (`Iterable`): real rows; 64 are enough.
            repeats (`int`, *optional*, defaults to 3): of which the median counts.

        Raises:
            ValueError: there is no row that can be answered.
        """
        check_rows(rows)
        with self._entered():
            settled = self._settled
        settled.check_mode()
        raw = list(rows)
        read = settled.reader.read(range(len(raw)), raw, [settled.thresholds] * len(raw))
        return self._measure(settled, [row for row in read if isinstance(row, Row)], repeats)

    @property
    def chosen(self) -> str:
        """The way that rows go: `routing`, or what was measured to be the fastest."""
        if self.routing != AUTO:
            return self.routing
        if self.times:
            return min(self.times, key=self.times.__getitem__)
        first = POOLED if any(map(lets_rows_leave, self.thresholds)) else ALL_BLOCKS
        return first if first in self._settled.makers else GATES

    def _measure(self, settled: Settled, rows: list[Row], repeats: int = 3) -> dict[str, float]:
        if not rows:
            raise ArgumentError("rows", "must hold a row that can be answered, got none")
        ordered = sorted(rows, key=lambda row: row.length)
        batches = [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]
        self.times = measure_routings(settled.makers, batches, repeats)
        shown = ", ".join(f"{name} {time:.3g}" for name, time in self.times.items())
        logger.info("Milliseconds per row at batch size %d: %s. Taken: %s.", self.batch_size, shown, self.chosen)
        return self.times

    def _predict(
        self,
        rows: Iterable[Any],
        shared: tuple[float, ...] | None,
        per_row: torch.Tensor | None,
        on_error: str,
        total: int | None,
        progress: bool,
    ) -> Iterator[Prediction]:
        source, engine, settled, place, broken = iter(rows), None, self._settled, 0, None
        # Sorting is for texts; images are large, and wait one batch only.
        window = self.batch_size * (LOOKAHEAD if self.stages.modality.has_tokens else 1)
        upwards = True
        line = Line(on_error, total, progress)
        while broken is None:
            raw, broken = take(source, window)
            if not raw:
                break
            start, place = place, place + len(raw)
            if settled is not self._settled:
                if engine is not None:
                    line.add(_stepped(engine.flush))
                engine, settled = None, self._settled
            settled.check_mode()
            thresholds = [shared or settled.thresholds] * len(raw)
            if per_row is not None:
                thresholds = _of_rows(settled.reader, per_row, start, place)
            read = settled.reader.read(range(start, place), raw, thresholds)
            line.add([Prediction(p, error=e) for p, e in enumerate(read, start) if not isinstance(e, Row)])
            # Up and down by turns: those who wait at the end of a window meet rows of their length.
            ordered = sorted((row for row in read if isinstance(row, Row)), key=lambda row: row.length)
            ordered = ordered if upwards else ordered[::-1]
            upwards = not upwards
            engine = engine or self._engine_for(settled, ordered, len(raw) == window)
            for i in range(0, len(ordered), self.batch_size):
                line.add(_stepped(engine.put, ordered[i : i + self.batch_size]))
                yield from line.next()
            if line.place < start:
                # They have waited a whole window: memory stays bounded.
                line.add(_stepped(engine.flush))
                yield from line.next()
        if engine is not None:
            line.add(_stepped(engine.flush))
        yield from line.next()
        line.end()
        if broken is not None:
            raise broken

    def _engine_for(self, settled: Settled, rows: list[Row], is_long: bool) -> Engine:
        """An engine; measured first where that has not been done, rows leave, and enough of them come."""
        leave = any(any(map(lets_rows_leave, row.thresholds)) for row in rows)
        if self.routing == AUTO and not self.times and leave and is_long:
            self._measure(settled, [rows[i] for i in evenly_spaced(len(rows), max(SAMPLE, self.batch_size))])
        return settled.makers[self.chosen]()


def _of_rows(reader: RowReader, thresholds: torch.Tensor, start: int, end: int) -> list[tuple[float, ...]]:
    if end > len(thresholds):
        raise ArgumentError("thresholds", f"must have one row per row, got {len(thresholds)} for {end} or more")
    return [reader.thresholds(row) for row in thresholds[start:end].tolist()]


def _stepped(step: Callable[..., list[Prediction]], *args: Any) -> list[Prediction]:
    # Not around the generator: its caller would be in inference mode too.
    with torch.inference_mode():
        return step(*args)
