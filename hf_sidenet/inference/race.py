# SPDX-License-Identifier: Apache-2.0
"""Find the fastest routing while answering: batches go through all of them by turns, and the slow ones drop out."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from transformers.utils import logging

from .pool import CALL_TOKENS
from .protocols import Engine, ServedModel
from .rows import Prediction, Row


logger = logging.get_logger(__name__)

# Rows of each routing in the first round; every further round has twice as many.
FIRST_ROWS = 16
# After each round, a routing that is slower than the fastest by more than this share drops out. Far slower ones cost
# the most rows and are the easiest to tell; going on with almost equal ones costs nothing.
MARGINS = (0.3, 0.15, 0.07, 0.0)
# Rows per turn on a CPU, where larger batches hardly take less time per row; on a GPU a turn is a whole batch.
TURN_ROWS = 32
# Rounds repeated because a graph was compiled.
MAX_REPEATS = 4


class Race:
    """Turns and times of the routings, shared by the streams of a runner. Thread-safe.

    Args:
        names (`Sequence[str]`): the routings; the first one starts.
        tell (`Callable[[Race, dict[str, float]], None]`):
            Called after each round with the milliseconds per row of each routing so far.
    """

    def __init__(self, names: Sequence[str], tell: Callable[["Race", dict[str, float]], None]):
        self.names = list(names)
        self.is_typical = True
        self._tell = tell
        self._lock = threading.Lock()
        self._round = 0
        self._num_repeats = 0
        self._num_forms = 0
        self._turns: deque[str] = deque()
        # Turns that some stream has taken and not finished.
        self._num_running = 0
        self._is_begun = False
        self._num_rows = 0
        self._total_work = 0.0
        # Seconds and work, in tokens or images, of each routing in this round and the last.
        self._current: dict[str, list[float]] = {}
        self._last: dict[str, list[float]] = {}
        self._rates: list[dict[str, float]] = []

    @property
    def is_over(self) -> bool:
        """Whether only the fastest routing is left."""
        return len(self.names) == 1

    @property
    def best(self) -> str:
        """The fastest routing so far."""
        return self.names[0]

    def next(self, part_size: int, num_forms: int) -> str | None:
        """Return the routing whose turn it is; `None` if the turn does not count, because everything is cold, or other
        streams have yet to finish the round.

        Args:
            part_size (`int`): rows per turn.
            num_forms (`int`): number of graphs compiled so far.
        """
        with self._lock:
            if not self._is_begun:
                self._is_begun = True
                return None
            if not self._turns:
                if self._num_running:
                    return None
                self._start(part_size, num_forms)
            self._num_running += 1
            return self._turns.popleft()

    def add(self, name: str, seconds: float, work: float, num_rows: int) -> None:
        """Count the time of a routing. With rows, a turn ends.

        Args:
            name (`str`): the routing.
            seconds (`float`): its time.
            work (`float`): padded tokens or images that it started on; 0 for rows that waited.
            num_rows (`int`): rows that it started on.
        """
        with self._lock:
            spent = self._current.setdefault(name, [0.0, 0.0])
            spent[0] += seconds
            spent[1] += work
            self._num_rows += num_rows
            self._total_work += work
            self._num_running -= num_rows > 0

    @property
    def is_round_run(self) -> bool:
        """Whether every routing has had its turns in this round."""
        return not self._turns

    def end_round(self, num_forms: int) -> None:
        """Let slow routings drop out. A round in which graphs were compiled is repeated.

        Args:
            num_forms (`int`): number of graphs compiled so far.
        """
        with self._lock:
            if self._turns or self._num_running or not self._current or self.is_over:
                return
            current, self._current = self._current, {}
            if num_forms != self._num_forms and self._num_repeats < MAX_REPEATS:
                self._num_repeats += 1
                return
            # The last two rounds: in small ones, rows that wait for a full batch do not get it.
            last, self._last = self._last, current
            rates = {}
            for name in self.names:
                rounds = [spent[name] for spent in (last, current) if name in spent]
                rates[name] = sum(seconds for seconds, _ in rounds) / max(sum(work for _, work in rounds), 1)
            self._rates.append(rates)
            ordered = sorted(self.names, key=rates.__getitem__)
            most = rates[ordered[0]] * (1 + MARGINS[self._round])
            self.names = [name for name in ordered if rates[name] <= most] if MARGINS[self._round] else ordered[:1]
            self._round += 1
            times = self._times()
        self._tell(self, times)

    def leave_out(self, names: Sequence[str], num_failed: int, num_rows: int, error: Exception) -> None:
        """Drop routings that fail on rows which another one answers.

        Args:
            names (`Sequence[str]`): the routings.
            num_failed (`int`): rows on which they fail.
            num_rows (`int`): rows that were tried.
            error (`Exception`): the first failure.
        """
        with self._lock:
            for name in names:
                if name in self.names and not self.is_over:
                    self.names.remove(name)
                    self._turns = deque(turn for turn in self._turns if turn != name)
                    logger.warning(
                        "Routing %r is left out, because %d of %d rows fail: %s", name, num_failed, num_rows, error
                    )
            is_over = self.is_over
            if is_over:
                self._turns.clear()
            for rates in self._rates:
                for name in names:
                    rates.pop(name, None)
            times = self._times()
        if is_over:
            self._tell(self, times)

    def _start(self, part_size: int, num_forms: int) -> None:
        self._num_forms = num_forms
        # Every other time in the opposite order, because sorted texts get longer or shorter.
        for i in range(math.ceil((FIRST_ROWS << self._round) / part_size)):
            self._turns.extend(self.names if (i + self._round) % 2 == 0 else self.names[::-1])

    def _times(self) -> dict[str, float]:
        """Milliseconds per row. Those of a routing that dropped out are relative to the fastest in its last round."""
        if not self._rates or self.best not in self._rates[-1]:
            return {}
        last, per_row = self._rates[-1], 1e3 * self._total_work / max(self._num_rows, 1)
        times = {}
        for rates in self._rates:
            times |= {name: per_row * last[self.best] * rate / rates[self.best] for name, rate in rates.items()}
        return times


class RacingEngine:
    """[`Engine`] that sends batches through the routings of a [`Race`] by turns, and through the fastest afterward.

    A row on which a routing fails is answered by another one, if there is one that can.

    Args:
        makers (`dict[str, Callable[[], Engine]]`): factories from [`engines_of`].
        race ([`Race`]): the race, which may have begun in another stream.
        stages ([`ServedModel`]): the chain behind the routings.
    """

    def __init__(self, makers: dict[str, Callable[[], Engine]], race: Race, stages: ServedModel):
        self.makers = makers
        self.race = race
        self.stages = stages
        self._engines: dict[str, Engine] = {}
        # Rows that may still fail.
        self._rows: dict[int, Row] = {}

    @property
    def waiting(self) -> int:
        """See [`Engine`]."""
        return sum(engine.waiting for engine in self._engines.values())

    @property
    def since(self) -> float:
        """See [`Engine`]."""
        return min((engine.since for engine in self._engines.values()), default=math.inf)

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """See [`Engine`]."""
        done: list[Prediction] = []
        num_parts = math.ceil(len(rows) / TURN_ROWS) if self.stages.device.type == "cpu" else 1
        size = math.ceil(len(rows) / max(num_parts, 1))
        while rows and not self.race.is_over:
            part, rows = rows[:size], rows[size:]
            self._rows.update((row.place, row) for row in part)
            name = self.race.next(size, self._num_forms)
            if name is None:
                done += self._run(self.race.best, lambda engine, part=part: engine.put(part) + engine.flush())
                continue
            done += self._run(name, lambda engine, part=part: engine.put(part), _work(part), len(part))
            if self.race.is_round_run:
                done += self.flush()
                self.race.end_round(self._num_forms)
        if rows:
            # Other streams may have ended the race while rows waited here.
            done += [*(self.flush() if self._rows else []), *self._only_best().put(rows)]
        return done

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """See [`Engine`]."""
        done = []
        for name in list(self._engines):
            done += self._run(name, lambda engine: engine.flush(before), 0.0)
        if before == math.inf:
            self._rows = {}
        return done

    @property
    def _num_forms(self) -> int:
        return getattr(self.stages, "num_forms", 0)

    def _only_best(self) -> Engine:
        best = self.race.best
        self._engines = {best: self._engines.get(best) or self.makers[best]()}
        return self._engines[best]

    def _run(
        self, name: str, step: Callable[[Engine], list[Prediction]], work: float | None = None, num_rows: int = 0
    ) -> list[Prediction]:
        """Let a routing do something; its time counts if `work` is given."""
        if name not in self._engines:
            self._engines[name] = self.makers[name]()
        start = time.perf_counter()
        try:
            done = step(self._engines[name])
            if self.stages.device.type == "cuda":
                torch.cuda.synchronize(self.stages.device)
        finally:
            if work is not None:
                self.race.add(name, time.perf_counter() - start, work, num_rows)
        failed = [each for each in done if each.error is not None and each.place in self._rows]
        return self._again(name, done, failed) if failed else done

    def _again(self, name: str, done: list[Prediction], failed: list[Prediction]) -> list[Prediction]:
        """Try failed rows with the other routings."""
        found = {each.place: each for each in failed}
        reason, tried = failed[0].error, [name]
        assert reason is not None
        for other in [each for each in self.race.names if each != name]:
            left = [self._rows[place] for place, each in found.items() if each.error is not None]
            if not left:
                break
            engine = self.makers[other]()
            answers = [each for each in engine.put(left) + engine.flush() if each.error is None]
            found.update((each.place, each) for each in answers)
            if answers:
                self.race.leave_out(tried, len(answers), len(self._rows), reason)
                tried = []
            tried.append(other)
        return [found.get(each.place, each) for each in done]


def _work(rows: Sequence[Row]) -> float:
    longest = max(row.length for row in rows)
    return CALL_TOKENS + len(rows) * longest if longest else len(rows)
