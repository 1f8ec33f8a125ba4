# SPDX-License-Identifier: Apache-2.0
"""Does what was certified still hold? A share of the rows also goes through the MainNet."""

import os
import random
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from threading import RLock
from typing import Any

from ..calibration.targets import Disagreement, parse_targets
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from .anytime import ChangeDetector, anytime_interval, check_level


# Chosen rows that may be under way; of more the oldest is given up.
MAX_OPEN = 10_000


@dataclass(frozen=True)
class MonitorReport:
    """What a monitor has seen so far.

    Args:
        num_rows (`int`): rows that were answered.
        num_chosen (`int`): of these, rows that were looked at.
        num_early (`int`): of the chosen ones, those that a SideNet answered: the MainNet ran for these as well.
        num_disagreements (`int`): of these, rows to which the MainNet gives another class.
        num_failed (`int`):
            Chosen rows without an answer, or without the MainNet's; they are not counted as chosen. Only rows that a
            SideNet answered need the MainNet once more, so where many fail, the rate is too low.
        rate (`float`, *optional*): disagreements per chosen row; `None` before the first.
        interval (`tuple[float, float]`): around it; all intervals ever read hold together.
        level (`float`): of the interval and of a false alarm, ever.
        limit (`float`): that was certified.
        alarm (`bool`): the limit no longer holds.
        alarm_at (`int`, *optional*): the chosen row at which it was raised.
    """

    num_rows: int
    num_chosen: int
    num_early: int
    num_disagreements: int
    num_failed: int
    rate: float | None
    interval: tuple[float, float]
    level: float
    limit: float
    alarm: bool
    alarm_at: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True, eq=False)
class Ticket:
    """A chosen row, until it is known what became of it."""

    closed: bool = False
    found: tuple[Any, str | int, bool, bool] | None = None


class ShadowMonitor:
    """Counts how often the answer that was given is not the MainNet's.

    Rows are chosen before anybody knows who answers them, so that the rate is that of all rows, which is what a
    `disagreement` target limits. A chosen row that the MainNet answered agrees by itself and costs nothing more. It
    may be used from several threads.

    Args:
        limit (`float`): rate that is allowed, in (0, 1).
        share (`float`, *optional*, defaults to 0.05): of the rows that are chosen, in (0, 1].
        level (`float`, *optional*, defaults to 0.05):
            Probability of a false alarm, however long it runs, while the rate is at most `limit`.
        keep (`int`, *optional*, defaults to 10000): chosen rows that are kept, the newest, to calibrate on them.
        seed (`int`, *optional*): of the choice. By default another each time, so that nobody can foresee it.

    Raises:
        ValueError: an argument is impossible.
    """

    def __init__(
        self, limit: float, *, share: float = 0.05, level: float = 0.05, keep: int = 10_000, seed: int | None = None
    ):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ArgumentError("share", "must be in (0, 1]", share)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ArgumentError("keep", "must be a whole number ≥ 0", keep)
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 1:
            raise ArgumentError("limit", "must be in (0, 1)", limit)
        check_level(level)
        self.limit, self.share, self.level = limit, share, level
        self._detector = ChangeDetector(limit, level)
        self._open: deque[Ticket] = deque()
        self._kept: deque[tuple[Any, str | int]] = deque(maxlen=keep)
        # A task that is thrown away drops its ticket wherever the garbage is collected, also in here.
        self._random, self._lock = random.Random(seed), RLock()
        if hasattr(os, "register_at_fork"):
            # A thread that is not in the forked process may have held it.
            os.register_at_fork(after_in_child=partial(_renew_lock, weakref.ref(self)))
        self._num_rows = self._num_early = self._num_failed = 0

    @classmethod
    def from_config(cls, config: SideNetConfig, **kwargs: Any) -> "ShadowMonitor":
        """A monitor of the `disagreement` target that θ was certified for.

        Args:
            config ([`SideNetConfig`]): of the checkpoint.
            kwargs (`Any`): of [`ShadowMonitor`].

        Raises:
            ValueError: θ was not certified for such a target.
        """
        named = [each["target"] for each in (config.calibration or {}).get("targets", [])]
        targets = parse_targets(named) if named else []
        limits = [target.limit for target in targets if isinstance(target, Disagreement)]
        if not limits:
            raise ValueError(
                f"`config.calibration` must have a target `{Disagreement.name}<=...`, got {named or None}: give "
                "`limit`, or recalibrate for such a target, which needs no labels."
            )
        return cls(limits[0], **kwargs)

    def choose(self) -> Ticket | None:
        """Whether the next row is looked at; call it once per row, before it is answered.

        Returns:
            [`Ticket`], *optional*: of a chosen row, for [`settle`] or [`drop`]. `None` for the others.
        """
        with self._lock:
            self._num_rows += 1
            if self._random.random() >= self.share:
                return None
            ticket = Ticket()
            self._open.append(ticket)
            if len(self._open) > MAX_OPEN:
                self._close(self._open[0], None)
            return ticket

    def settle(self, ticket: Ticket, row: Any, mainnet_label: str | int, *, early: bool, disagrees: bool) -> bool:
        """What became of a chosen row. Rows count in the order in which they were chosen, however long the MainNet
        took for them: in any other order the alarm would be false more often than it says.

        Args:
            ticket ([`Ticket`]): of [`choose`].
            row (`Any`): as it came; it is kept.
            mainnet_label (`str` or `int`): class that the MainNet gives it.
            early (`bool`): whether a SideNet answered it.
            disagrees (`bool`): whether that answer is another class.

        Returns:
            `bool`: whether there is an alarm.

        Raises:
            ValueError: a row that the MainNet answered cannot disagree with it.
        """
        if disagrees and not early:
            raise ArgumentError("disagrees", "must be False for a row that the MainNet answered, got True")
        with self._lock:
            self._close(ticket, (row, mainnet_label, early, disagrees))
            return self._detector.alarm

    def drop(self, ticket: Ticket) -> None:
        """A chosen row that got no answer, or of which the MainNet gave none.

        Args:
            ticket ([`Ticket`]): of [`choose`].
        """
        with self._lock:
            self._close(ticket, None)

    def _close(self, ticket: Ticket, found: tuple[Any, str | int, bool, bool] | None) -> None:
        if ticket.closed:
            return
        ticket.closed, ticket.found = True, found
        while self._open and self._open[0].closed:
            self._count(self._open.popleft().found)

    def _count(self, found: tuple[Any, str | int, bool, bool] | None) -> None:
        if found is None:
            self._num_failed += 1
            return
        row, label, early, disagrees = found
        self._kept.append((row, label))
        self._num_early += early
        self._detector.add(disagrees)

    @property
    def alarm(self) -> bool:
        """Whether the limit no longer holds."""
        return self._detector.alarm

    def report(self) -> MonitorReport:
        """What was seen so far; it may be looked at at any time."""
        with self._lock:
            rows, hits = self._detector.num_rows, self._detector.num_hits
            return MonitorReport(
                num_rows=self._num_rows,
                num_chosen=rows,
                num_early=self._num_early,
                num_disagreements=hits,
                num_failed=self._num_failed,
                rate=hits / rows if rows else None,
                interval=anytime_interval(rows, hits, self.level),
                level=self.level,
                limit=self.limit,
                alarm=self._detector.alarm,
                alarm_at=self._detector.alarm_at,
            )

    def rows(self, names: Sequence[str] = ("text",)) -> list[dict[str, Any]]:
        """The kept rows as a data set to recalibrate on: `label` is the class that the MainNet gives.

        Args:
            names (`Sequence[str]`, *optional*, defaults to `("text",)`):
                Of the column, or of the two of a pair. Rows that are dicts have names of their own.
        """
        with self._lock:
            kept = list(self._kept)
        return [{**_columns(row, names), "label": label} for row, label in kept]


def _renew_lock(monitor: "weakref.ref[ShadowMonitor]") -> None:
    if (alive := monitor()) is not None:
        alive._lock = RLock()


def _columns(row: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    return dict(zip(names, row if isinstance(row, tuple | list) else (row,), strict=True))
