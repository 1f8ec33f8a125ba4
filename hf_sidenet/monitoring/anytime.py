# SPDX-License-Identifier: Apache-2.0
"""How often something happens, known well enough to look at any time.

Counts are compared with a rate by a bet against it that nobody can win on average: wealth that begins at 1 exceeds
1 / α ever with probability at most α (Ville). The bet is a Beta mixture of likelihood ratios (Robbins, 1970; Howard et
al., arXiv 1810.08240). So the interval holds at all times together, and the alarm may be looked at after every row.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.errors import ArgumentError
from ..optional import require


# Jeffreys' prior: no rate is preferred.
PRIOR = 0.5
TINY = 1e-300
# That run at a time. Giving up the oldest costs a chance to notice, never a false alarm.
MAX_BETS = 1000


def log_wealth(num_rows: int, num_hits: int, rate: float) -> float:
    """Logarithm of the wealth of a bet that hits are more frequent than `rate`. Where they are not, it stays under
    log(1 / α) forever with probability ≥ 1 − α.

    Args:
        num_rows (`int`): rows seen.
        num_hits (`int`): of these, rows where it happened.
        rate (`float`): in (0, 1).

    Raises:
        ValueError: a count or the rate is impossible.
    """
    if not 0 <= num_hits <= num_rows:
        raise ArgumentError("num_hits", f"must be from 0 to `num_rows`, {num_rows}, got {num_hits}")
    if not 0 < rate < 1:
        raise ArgumentError("rate", "must be in (0, 1)", rate)
    return float(_log_wealth(num_rows, num_hits, rate))


def _log_wealth(num_rows: Any, num_hits: Any, rate: float) -> Any:
    """Of one bet, or of many at once, as arrays."""
    special, stats = require("scipy.special", "attach"), require("scipy.stats", "attach")
    a, b = PRIOR + num_hits, PRIOR + num_rows - num_hits
    # Of the prior only what is above the rate bets: the wealth is fair at the rate, and shrinks below it.
    after = special.betaln(a, b) + stats.beta.logsf(rate, a, b)
    before = special.betaln(PRIOR, PRIOR) + stats.beta.logsf(rate, PRIOR, PRIOR)
    against = num_hits * math.log(rate) + (num_rows - num_hits) * math.log1p(-rate)
    return after - before - against


def anytime_interval(num_rows: int, num_hits: int, level: float = 0.05) -> tuple[float, float]:
    """Bounds of a rate that hold at all times together, with probability ≥ 1 − `level`.

    Args:
        num_rows (`int`): rows seen so far.
        num_hits (`int`): of these, rows where it happened.
        level (`float`, *optional*, defaults to 0.05): half of it for each end.

    Raises:
        ValueError: a count or the level is impossible.
    """
    check_level(level)
    low = _lower_bound(num_rows, num_hits, level / 2)
    return low, 1 - _lower_bound(num_rows, num_rows - num_hits, level / 2)


def check_level(level: float) -> None:
    """Raises:
    ValueError: it is no probability between 0 and 1.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ArgumentError("level", "must be in (0, 1)", level)


def _lower_bound(num_rows: int, num_hits: int, level: float) -> float:
    """The largest rate that is refuted together with all below it; 0 where none is."""
    if num_hits == 0:
        log_wealth(num_rows, num_hits, 0.5)
        return 0.0
    # Below the observed rate the wealth falls as the rate rises; there it is at most 1.
    optimize = require("scipy.optimize", "attach")
    highest = min(num_hits / num_rows, 1 - 1e-12)
    return optimize.brentq(
        lambda rate: log_wealth(num_rows, num_hits, rate) + math.log(level), TINY, highest, xtol=1e-13, rtol=1e-12
    )


@dataclass
class ChangeDetector:
    """Alarm when hits have become more frequent than a rate, at whatever row that began.

    A bet that began at the first row has much to win back after a long good time. So new bets begin again and again,
    each with its share of the stake: the i-th with 6 / (π² i²). Their sum is one bet, and the alarm is false with
    probability at most `level`, however long it runs.

    Args:
        rate (`float`): that is allowed, in (0, 1).
        level (`float`, *optional*, defaults to 0.05): probability of a false alarm, ever.
        epoch (`int`, *optional*, defaults to 100): rows after which another bet begins.

    Raises:
        ValueError: an argument is impossible.
    """

    rate: float
    level: float = 0.05
    epoch: int = 100

    def __post_init__(self) -> None:
        log_wealth(0, 0, self.rate)
        check_level(self.level)
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int) or self.epoch < 1:
            raise ArgumentError("epoch", "must be a whole number ≥ 1", self.epoch)
        self.num_rows = self.num_hits = 0
        self.alarm_at: int | None = None
        # Per bet: rows and hits before it began.
        self._begun: deque[tuple[int, int]] = deque([(0, 0)], maxlen=MAX_BETS)
        self._num_bets, self._staked = 1, _stakes(1, 1).item()

    @property
    def alarm(self) -> bool:
        """Whether it was ever raised."""
        return self.alarm_at is not None

    def add(self, hit: bool) -> bool:
        """One more row.

        Args:
            hit (`bool`): whether it happened.

        Returns:
            `bool`: [`alarm`].
        """
        if self.num_rows and self.num_rows % self.epoch == 0:
            self._begun.append((self.num_rows, self.num_hits))
            self._num_bets += 1
            self._staked += _stakes(self._num_bets, self._num_bets).item()
        self.num_rows += 1
        self.num_hits += bool(hit)
        # Wealth rises with hits only.
        if hit and self.alarm_at is None and self.wealth >= 1 / self.level:
            self.alarm_at = self.num_rows
        return self.alarm

    @property
    def wealth(self) -> float:
        """Of all bets together; stakes of those that have not begun count as they are."""
        begun = np.array(self._begun)
        stakes = _stakes(self._num_bets - len(begun) + 1, self._num_bets)
        wealth = _log_wealth(self.num_rows - begun[:, 0], self.num_hits - begun[:, 1], self.rate)
        # 500 is far above what raises the alarm.
        return float(stakes @ np.exp(np.minimum(wealth, 500)) + 1 - self._staked)


def _stakes(first: int, last: int) -> np.ndarray:
    """Of the bets with these numbers, from 1 on; all together stake 1."""
    return 6 / (math.pi * np.arange(first, last + 1)) ** 2
