# SPDX-License-Identifier: Apache-2.0
"""Check whether the guarantee still holds by also running a share of the rows through the MainNet."""

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
from ..models.configuration_sidenet import SideNetConfig, chain_of
from ..models.errors import ArgumentError
from .anytime import ChangeDetector, anytime_interval, check_level


# Maximum number of pending sampled rows; beyond that, the oldest is dropped.
MAX_OPEN = 10_000


@dataclass(frozen=True)
class MonitorReport:
    """Current state of a monitor.

    Args:
        num_rows (`int`): number of rows answered.
        num_chosen (`int`): number of sampled rows.
        num_early (`int`): number of sampled rows answered by a SideNet, for which the MainNet also ran.
        num_disagreements (`int`): number of sampled rows with another class from the MainNet.
        num_failed (`int`):
            Number of sampled rows without an answer or without the MainNet's; not counted in `num_chosen`. Only rows
            answered by a SideNet need another MainNet run, so if many fail, the rate is too low.
        rate (`float`, *optional*): disagreements per sampled row; `None` before the first.
        interval (`tuple[float, float]`): interval for the rate; all intervals ever read hold simultaneously.
        level (`float`): error probability of the interval, and of ever raising a false alarm.
        limit (`float`): certified limit.
        alarm (`bool`): whether the limit no longer holds.
        alarm_at (`int`, *optional*): sampled row at which the alarm was raised.
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
        """Convert to a dict for JSON."""
        return asdict(self)


@dataclass(slots=True, eq=False)
class Ticket:
    """Sampled row whose result is pending."""

    closed: bool = False
    found: tuple[Any, str | int, bool, bool] | None = None


class ShadowMonitor:
    """Counts how often answers differ from the MainNet's.

    Rows are sampled before it is known which exit answers, so that the rate refers to all rows, as a `disagreement`
    target does. Sampled rows that the MainNet answers agree automatically, at no extra cost. Thread-safe.

    Args:
        limit (`float`): allowed rate, in (0, 1).
        share (`float`, *optional*, defaults to 0.05): share of rows to sample, in (0, 1].
        level (`float`, *optional*, defaults to 0.05):
            Probability of ever raising a false alarm while the rate is at most `limit`.
        keep (`int`, *optional*, defaults to 10000): number of most recent sampled rows to keep, for calibration.
        seed (`int`, *optional*): seed of the sampling. Random by default, so that it is unpredictable.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self, limit: float, *, share: float = 0.05, level: float = 0.05, keep: int = 10_000, seed: int | None = None
    ):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ArgumentError("share", "must be in (0, 1]", share)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ArgumentError("keep", "must be an integer ≥ 0", keep)
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 1:
            raise ArgumentError("limit", "must be in (0, 1)", limit)
        check_level(level)
        self.limit, self.share, self.level = limit, share, level
        self._detector = ChangeDetector(limit, level)
        self._open: deque[Ticket] = deque()
        self._kept: deque[tuple[Any, str | int]] = deque(maxlen=keep)
        # Reentrant: a garbage-collected task drops its ticket, possibly while this lock is held.
        self._random, self._lock = random.Random(seed), RLock()
        if hasattr(os, "register_at_fork"):
            # A thread that a fork does not copy may hold the lock.
            os.register_at_fork(after_in_child=partial(_renew_lock, weakref.ref(self)))
        self._num_rows = self._num_early = self._num_failed = 0

    @classmethod
    def from_config(cls, config: SideNetConfig, **kwargs: Any) -> "ShadowMonitor":
        """Make a monitor for the `disagreement` target for which θ was certified.

        Args:
            config ([`SideNetConfig`]): config of the checkpoint.
            kwargs (`Any`): arguments of [`ShadowMonitor`].

        Raises:
            ValueError: θ was not certified for such a target.
        """
        named = [each["target"] for each in (config.calibration or {}).get("targets", [])]
        targets = parse_targets(named) if named else []
        limits = [target.limit for target in targets if isinstance(target, Disagreement)]
        if not limits:
            raise ValueError(
                f"`config.calibration` must have a target `{Disagreement.name}<=...`, got {named or None}: pass "
                "`limit`, or recalibrate for such a target, which needs no labels."
            )
        return cls(limits[0], **kwargs)

    def choose(self) -> Ticket | None:
        """Decide whether to sample the next row; call once per row, before it is answered.

        Returns:
            [`Ticket`], *optional*: ticket of a sampled row, for [`settle`] or [`drop`]; `None` for other rows.
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
        """Record the result of a sampled row.

        Rows are counted in the order of sampling, however long the MainNet takes: in any other order, false alarms
        could exceed `level`.

        Args:
            ticket ([`Ticket`]): ticket from [`choose`].
            row (`Any`): the row; kept as it is.
            mainnet_label (`str` or `int`): class from the MainNet.
            early (`bool`): whether a SideNet answered.
            disagrees (`bool`): whether that answer is another class.

        Returns:
            `bool`: whether there is an alarm.

        Raises:
            ValueError: the MainNet answered the row, but `disagrees` is `True`.
        """
        if disagrees and not early:
            raise ArgumentError("disagrees", "must be False for a row that the MainNet answered, got True")
        with self._lock:
            self._close(ticket, (row, mainnet_label, early, disagrees))
            return self._detector.alarm

    def drop(self, ticket: Ticket) -> None:
        """Record a sampled row without an answer, or without the MainNet's.

        Args:
            ticket ([`Ticket`]): ticket from [`choose`].
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
        """Return the current state; may be called at any time."""
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
        """Return the kept rows as a data set for recalibration, with the MainNet's class as `label`.

        Args:
            names (`Sequence[str]`, *optional*, defaults to `("text",)`):
                Name of the text column, or of the two columns of a pair. Ignored for dict rows.
        """
        with self._lock:
            kept = list(self._kept)
        return [{**_columns(row, names), "label": label} for row, label in kept]


def check_comparable(config: SideNetConfig) -> None:
    """Reject a model that does not give the MainNet's own answers at θ = 1, which a monitor compares with.

    Args:
        config ([`SideNetConfig`]): config of the model.

    Raises:
        ValueError: SideNets change the MainNet's answers (`ensemble=True` of [`attach`]).
    """
    weights = chain_of(config)[-1]
    if any(weights):
        raise ArgumentError(
            "chain", "must leave the MainNet's answers as they are for a monitor to compare with them", weights
        )


def _renew_lock(monitor: "weakref.ref[ShadowMonitor]") -> None:
    if (alive := monitor()) is not None:
        alive._lock = RLock()


def _columns(row: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    return dict(zip(names, row if isinstance(row, tuple | list) else (row,), strict=True))
