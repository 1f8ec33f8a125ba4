# SPDX-License-Identifier: Apache-2.0
"""Runner: answers rows in order, turning skipped blocks into saved time."""

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
from .race import Race, RacingEngine
from .reading import RowReader, check_rows
from .remembered import recall, remember, setting_of
from .routings import ALL_BLOCKS, AUTO, GATES, POOLED, ROUTINGS, full_batch, measure_routings
from .rows import Prediction, Row
from .serving import Worker
from .settled import Settled


logger = logging.get_logger(__name__)

# Batches to read ahead for sorting by length.
LOOKAHEAD = 32
# Images wait at most while this many full batches of a later stage are read; half of them may exit at each stage.
IMAGE_POOLS = 8
MAX_WAIT_MS = 10.0


class Line:
    """Puts predictions back into the order of their rows."""

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
            logger.warning("%d of %d rows have no answer; see `error` of their predictions.", self.failed, self.place)


def take(source: Iterator[Any], size: int) -> tuple[list[Any], Exception | None]:
    """Return the next rows, and the error at which their source stopped; the rows before it are answered first."""
    raw = []
    try:
        raw.extend(islice(source, size))
    except Exception as error:
        return raw, error
    return raw, None


def batches_of_wait(stages: ServedModel, batch_size: int, pool_size: int) -> int:
    """Return how many batches are read, at most, while a row waits for a full batch.

    Args:
        stages ([`ServedModel`]): the chain.
        batch_size (`int`): rows per batch at stage 0.
        pool_size (`int`): rows of a full batch at a later stage.
    """
    return LOOKAHEAD if stages.modality.has_tokens else max(1, IMAGE_POOLS * pool_size // batch_size)


class SideNetRunner:
    """Answers rows with early exits, and turns skipped FLOPs into saved wall-clock time.

    Confident rows exit after a stage; the others wait for a full batch at the next stage, across input batches. Texts
    are sorted by length within a window to reduce padding. Whether and how dropping rows pays off is measured while
    the first rows are answered: they go through all routings by turns, the others through the fastest. The choice is
    remembered in the cache for this checkpoint, machine and these settings. The answer to a row depends neither on
    other rows nor on the routing.

    The runner keeps the model's config as it was at construction until [`update`]. Weights are shared: calls fail
    while the model is in training mode. Thread-safe.

    Args:
        model ([`SideNetPreTrainedModel`], [`OnnxStages`] or [`Stages`]): model in evaluation mode; not changed.
        processor (tokenizer or image processor, *optional*): processor for raw texts, text pairs and images.
        batch_size (`int`, *optional*, defaults to 64): rows per batch at stage 0.
        thresholds (`float` or `list[float]`, *optional*): θ, by default the model's.
        pool_size (`int`, *optional*):
            Rows of a full batch at a later stage. By default `batch_size`, at least 32; 1 for a batch size of 1.
        routing (`str`, *optional*, defaults to `"auto"`):
            `"pooled"`: as above; `"per_batch"`: remaining rows continue immediately; `"gates"`: the model's own
            forward; `"all_blocks"`: all rows run through all blocks, then the exit rule is applied; `"auto"`: the
            fastest that does not fail, as remembered, or as measured on the first rows.
        compile (`bool` or `dict[str, Any]`, *optional*, defaults to `False`):
            Compile every stage separately; a dict is passed to `torch.compile`.
        dtype (`torch.dtype`, *optional*): run a copy of the model in this precision. θ must be certified for it.
        max_length (`int`, *optional*): tokens at which raw texts are truncated.
        max_wait_ms (`float`, *optional*, defaults to 10): how long a row of [`submit`] waits for others at a stage.
        max_waiting_rows (`int`, *optional*): maximum rows in the runner with [`submit`]; by default 16 batches.

    Raises:
        StagesError: `routing` or `compile` needs stages, but this MainNet supports only `"gates"`.
        ValueError: an argument is invalid.
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
                raise ArgumentError(name, "must be an integer ≥ 1", value)
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
        if routing == AUTO and len(self._settled.makers) > 1:
            self.times = recall(setting_of(self._settled, batch_size))
        self._race: Race | None = None
        self.max_wait = max_wait_ms / 1e3
        self.max_waiting_rows = max_waiting_rows or 16 * batch_size
        self._worker: Worker | None = None
        self._is_closed = False
        self._process = os.getpid()
        # One per process: a thread that a fork did not copy may have held the parent's.
        self._locks: dict[int, threading.Lock] = {}

    @property
    def stages(self) -> ServedModel:
        """Chain of stages that answers, or [`Served`] for a model without stages."""
        return self._settled.stages

    @property
    def reader(self) -> RowReader:
        """Reader of the rows."""
        return self._settled.reader

    @property
    def thresholds(self) -> tuple[float, ...]:
        """θ of each SideNet for rows without their own."""
        return self._settled.thresholds

    @property
    def not_certified(self) -> str | None:
        """Why the evidence behind the model's θ does not cover this runner; `None` if it does, or there is none.

        Reads the weights on first use, by [`predict`], [`start`] or [`update`].
        """
        return self._settled.not_certified

    def update(
        self, model: SideNetPreTrainedModel | StageChain, thresholds: float | Sequence[float] | None = None
    ) -> None:
        """Switch to other weights, θ or temperatures.

        Rows already read are answered by the old ones, later rows by the new ones; no row gets a mix.

        Args:
            model ([`SideNetPreTrainedModel`], [`OnnxStages`] or [`Stages`]):
                May be the same model with a changed config. Pass new weights as another model: the weights of the
                current one are shared and must not change.
            thresholds (`float` or `list[float]`, *optional*): θ, by default the new model's, not the runner's.

        Raises:
            ValueError: the architecture, exits, classes or inputs differ; the message says which.
        """
        settled = self._settle(model, thresholds, processor=self.reader.processor)
        settled.check_replaces(self._settled)
        settled.tell_not_certified()
        with self._entered():
            self._settled = settled
            if self._race is not None and not self._race.is_over:
                self._race, self.times = None, {}
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
        """Yield answers in the order of the rows, in bounded memory.

        Args:
            rows (`Iterable`): dicts of model inputs, not padded; with a `processor` also texts, pairs or images. A
                single text, dict or DataFrame is rejected, because iterating it would not yield rows.
            thresholds (`float`, `list[float]` or `torch.Tensor` of shape `(rows, num_sidenets)`, *optional*):
                θ for these rows.
            on_error (`str`, *optional*, defaults to `"return"`):
                `"return"`: a row that cannot be answered gets a [`Prediction`] with its `error`; `"raise"`: raise the
                error when it is that row's turn.
            progress (`bool`, *optional*, defaults to `False`): show a progress bar.

        Raises:
            ValueError: an argument is invalid.
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
            raise ArgumentError("thresholds", f"must have one row per input row, {total}, got {len(per_row)}")
        return self._predict(rows, shared, per_row, on_error, total, progress)

    async def submit(self, row: Any, thresholds: float | Sequence[float] | None = None) -> Prediction:
        """Answer one row, for servers: rows of many callers and event loops share batches.

        Waits while `max_waiting_rows` are in the runner.

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
        """Start the thread that [`submit`] uses. A process forked later starts its own.

        Args:
            sample (`Iterable`, *optional*): rows to measure on first, see [`measure`].

        Raises:
            RuntimeError: the runner is closed.
        """
        if sample is not None:
            self.measure(sample)
        self._started()
        return self

    def close(self) -> None:
        """Answer the accepted rows, then stop the thread of [`submit`], which accepts no more."""
        with self._entered():
            self._is_closed, worker = True, self._worker
        if worker is not None:
            worker.close()

    def _started(self) -> Worker:
        """Return the single worker, starting it if needed."""
        with self._entered():
            if self._is_closed:
                raise RuntimeError("the runner is closed and accepts no rows.")
            if self._worker is None:
                self._settled.tell_not_certified()
                worker = Worker(
                    self._settled,
                    self.chosen,
                    batch_size=self.batch_size,
                    max_wait=self.max_wait,
                    max_waiting_rows=self.max_waiting_rows,
                )
                # The thread does not reference the runner, so a runner that is never closed ends with its last user.
                weakref.finalize(self, worker.end).atexit = False
                self._worker = worker
            return self._worker

    def __enter__(self) -> "SideNetRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Enter one thread at a time; after a fork, drop the threads that were not copied."""
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if os.getpid() != self._process:
                self._leave_threads_behind()
            yield

    def _leave_threads_behind(self) -> None:
        self._process = os.getpid()
        # Its rows belong to the parent process, which answers them.
        self._worker = None
        self._race = None
        threads = torch.get_num_threads()
        if threads > 1:
            # OpenMP would deadlock, waiting for threads of the parent process.
            torch.set_num_threads(1)
            logger.warning(
                "This process was forked after the runner was created, without torch's %d threads, and computes with "
                "a single one from now on. Create the runner in this process to use all.",
                threads,
            )

    def measure(self, rows: Iterable[Any], repeats: int = 3) -> dict[str, float]:
        """Measure the milliseconds per row of each routing, store them in `times`, and use the fastest from now on.

        Also remembers them, in place of what was remembered before. [`predict`] measures by itself.

        Args:
            rows (`Iterable`): real rows; 64 are enough.
            repeats (`int`, *optional*, defaults to 3): rounds, whose median is used.

        Raises:
            ValueError: no row can be answered.
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
        """Routing in use: `routing`, or the fastest measured."""
        if self.routing != AUTO:
            return self.routing
        race = self._race
        if race is not None and (race.is_over or self.times):
            return race.best
        if self.times:
            return min(self.times, key=self.times.__getitem__)
        first = POOLED if any(map(lets_rows_leave, self.thresholds)) else ALL_BLOCKS
        return first if first in self._settled.makers else GATES

    def _measure(self, settled: Settled, rows: list[Row], repeats: int = 3) -> dict[str, float]:
        if not rows:
            raise ArgumentError("rows", "must contain a row that can be answered, got none")
        ordered = sorted(rows, key=lambda row: row.length)
        batches = [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]
        self._race, self.times = None, measure_routings(settled.makers, batches, repeats)
        self._keep(settled)
        return self.times

    def _keep(self, settled: Settled) -> None:
        shown = ", ".join(f"{name} {time:.3g}" for name, time in self.times.items())
        logger.info("Milliseconds per row at batch size %d: %s. Using %s.", self.batch_size, shown, self.chosen)
        if self.routing == AUTO and len(settled.makers) > 1:
            remember(setting_of(settled, self.batch_size), self.times)

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
        # Only texts are sorted; images are large and wait for one batch only.
        window = self.batch_size * (LOOKAHEAD if self.stages.modality.has_tokens else 1)
        longest_wait = self.batch_size * batches_of_wait(self.stages, self.batch_size, settled.pool_size)
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
            # Alternate directions, so that rows waiting at the end of a window meet rows of similar length.
            ordered = sorted((row for row in read if isinstance(row, Row)), key=lambda row: row.length)
            ordered = ordered if upwards else ordered[::-1]
            upwards = not upwards
            if engine is None:
                is_typical = per_row is None and shared in (None, settled.thresholds)
                engine = self._engine_for(settled, ordered, is_typical)
                if isinstance(engine, RacingEngine):
                    ordered, upwards = _from_the_middle(ordered, self.batch_size), True
            for i in range(0, len(ordered), self.batch_size):
                line.add(_stepped(engine.put, ordered[i : i + self.batch_size]))
                yield from line.next()
            if line.place < place - longest_wait:
                # To bound memory.
                line.add(_stepped(engine.flush))
                yield from line.next()
        if engine is not None:
            line.add(_stepped(engine.flush))
        yield from line.next()
        line.end()
        if broken is not None:
            raise broken

    def _engine_for(self, settled: Settled, rows: list[Row], is_typical: bool) -> Engine:
        """Return an engine; one that races unless the fastest routing is known, or no row can exit."""
        leave = any(any(map(lets_rows_leave, row.thresholds)) for row in rows)
        if self.routing == AUTO and leave and len(settled.makers) > 1:
            with self._entered():
                if self._race is None and not self.times:
                    self._race = Race(list(settled.makers), partial(self._tell, settled))
                race = self._race
            if race is not None and not race.is_over:
                race.is_typical = race.is_typical and is_typical
                return RacingEngine(settled.makers, race, settled.stages)
        return settled.makers[self.chosen]()

    def _tell(self, settled: Settled, race: Race, times: dict[str, float]) -> None:
        # Not if `measure` was called meanwhile.
        if race is not self._race:
            return
        self.times = times
        if race.is_over and race.is_typical and times:
            self._keep(settled)


def _from_the_middle(rows: list[Row], batch_size: int) -> list[Row]:
    """Put rows of medium length first, on which the routings are compared."""
    start = len(rows) - -(-3 * len(rows) // (4 * batch_size)) * batch_size
    return rows if start <= 0 else rows[start:] + rows[:start][::-1]


def _of_rows(reader: RowReader, thresholds: torch.Tensor, start: int, end: int) -> list[tuple[float, ...]]:
    if end > len(thresholds):
        raise ArgumentError("thresholds", f"must have one row per input row, got {len(thresholds)} for {end} or more")
    return [reader.thresholds(row) for row in thresholds[start:end].tolist()]


def _stepped(step: Callable[..., list[Prediction]], *args: Any) -> list[Prediction]:
    # Not around the generator, which would put its caller in inference mode too.
    with torch.inference_mode():
        return step(*args)
