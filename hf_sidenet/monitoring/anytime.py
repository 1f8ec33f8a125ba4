# SPDX-License-Identifier: Apache-2.0
"""Anytime-valid intervals and alarms for the rate of an event.

Counts are tested against a rate by a fair bet: wealth that starts at 1 ever exceeds 1 / α with probability at most α
(Ville). The bet is a Beta mixture of likelihood ratios (Robbins, 1970; Howard et al., arXiv 1810.08240). So intervals
hold at all times simultaneously, and the alarm may be checked after every row.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.errors import ArgumentError
from ..optional import require


# Jeffreys' prior.
PRIOR = 0.5
TINY = 1e-300
FAR_TAIL = -600.0  # log; the smallest normal double is exp(-708)
NUM_TERMS = 5000
# Concurrent bets. Dropping the oldest reduces power but never causes a false alarm.
MAX_BETS = 1000


def log_wealth(num_rows: int, num_hits: int, rate: float) -> float:
    """Return the log-wealth of a bet that hits are more frequent than `rate`.

    If they are not, it stays below log(1 / α) forever with probability ≥ 1 − α.

    Args:
        num_rows (`int`): number of rows.
        num_hits (`int`): number of rows with a hit.
        rate (`float`): rate in (0, 1).

    Raises:
        ValueError: a count or the rate is invalid.
    """
    if not 0 <= num_hits <= num_rows:
        raise ArgumentError("num_hits", f"must be between 0 and `num_rows`, {num_rows}, got {num_hits}")
    if not 0 < rate < 1:
        raise ArgumentError("rate", "must be in (0, 1)", rate)
    return float(_log_wealth(num_rows, num_hits, rate))


def _log_wealth(num_rows: Any, num_hits: Any, rate: float) -> Any:
    """Return the log-wealth of one bet, or of an array of bets."""
    # Only the part of the prior above the rate bets: the bet is fair at the rate, and unfavorable below it.
    after = _log_mass_above(rate, PRIOR + num_hits, PRIOR + num_rows - num_hits)
    before = _log_mass_above(rate, PRIOR, PRIOR)
    against = num_hits * math.log(rate) + (num_rows - num_hits) * math.log1p(-rate)
    return after - before - against


def _log_mass_above(rate: float, a: Any, b: Any) -> Any:
    """Return the log of the integral of x^(a − 1) (1 − x)^(b − 1) from `rate` to 1."""
    special, stats = require("scipy.special", "attach"), require("scipy.stats", "attach")
    a, b = np.broadcast_arrays(a, b)
    share = np.asarray(stats.beta.logsf(rate, a, b))
    found = special.betaln(a, b) + share
    far = share < FAR_TAIL
    if far.any():
        # Here the share is not a normal floating-point number, but the series (DLMF 8.17.8) converges quickly. Not
        # `scipy.special.hyp2f1`, which overflows for thousands of rows.
        a, b = a[far], b[far]
        k = np.arange(NUM_TERMS)[:, None]
        series = 1 + np.cumprod((1 - rate) * (a + b + k) / (b + 1 + k), axis=0).sum(0)
        found = np.array(found)
        found[far] = a * math.log(rate) + b * math.log1p(-rate) - np.log(b) + np.log(series)
    return found


def anytime_interval(num_rows: int, num_hits: int, level: float = 0.05) -> tuple[float, float]:
    """Return bounds of a rate that hold at all times simultaneously, with probability ≥ 1 − `level`.

    Args:
        num_rows (`int`): number of rows so far.
        num_hits (`int`): number of rows with a hit.
        level (`float`, *optional*, defaults to 0.05): error probability, half for each bound.

    Raises:
        ValueError: a count or the level is invalid.
    """
    check_level(level)
    low = _lower_bound(num_rows, num_hits, level / 2)
    return low, 1 - _lower_bound(num_rows, num_rows - num_hits, level / 2)


def check_level(level: float) -> None:
    """Reject a level that is not in (0, 1).

    Raises:
        ValueError: it is not.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ArgumentError("level", "must be in (0, 1)", level)


def _lower_bound(num_rows: int, num_hits: int, level: float) -> float:
    """Return the largest rate that is rejected along with all smaller ones; 0 if none is."""
    if num_hits == 0:
        log_wealth(num_rows, num_hits, 0.5)
        return 0.0
    # Below the observed rate, wealth decreases as the rate increases; at that rate it is at most 1.
    optimize = require("scipy.optimize", "attach")
    highest = min(num_hits / num_rows, 1 - 1e-12)
    return optimize.brentq(
        lambda rate: log_wealth(num_rows, num_hits, rate) + math.log(level), TINY, highest, xtol=1e-13, rtol=1e-12
    )


@dataclass
class ChangeDetector:
    """Alarm when hits become more frequent than a rate, at any row.

    A bet started at the first row loses wealth during a long good period. So new bets start regularly, the i-th with
    a share of 6 / (π² i²) of the stake. Their sum is one bet, and the probability of a false alarm is at most `level`,
    however long it runs.

    Args:
        rate (`float`): allowed rate, in (0, 1).
        level (`float`, *optional*, defaults to 0.05): probability of ever raising a false alarm.
        epoch (`int`, *optional*, defaults to 100): number of rows after which a new bet starts.

    Raises:
        ValueError: an argument is invalid.
    """

    rate: float
    level: float = 0.05
    epoch: int = 100

    def __post_init__(self) -> None:
        log_wealth(0, 0, self.rate)
        check_level(self.level)
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int) or self.epoch < 1:
            raise ArgumentError("epoch", "must be an integer ≥ 1", self.epoch)
        self.num_rows = self.num_hits = 0
        self.alarm_at: int | None = None
        # For each bet, the rows and hits before it started.
        self._begun: deque[tuple[int, int]] = deque([(0, 0)], maxlen=MAX_BETS)
        self._num_bets, self._staked = 1, _stakes(1, 1).item()

    @property
    def alarm(self) -> bool:
        """Whether the alarm was ever raised."""
        return self.alarm_at is not None

    def add(self, hit: bool) -> bool:
        """Add a row.

        Args:
            hit (`bool`): whether it is a hit.

        Returns:
            `bool`: [`alarm`].
        """
        if self.num_rows and self.num_rows % self.epoch == 0:
            self._begun.append((self.num_rows, self.num_hits))
            self._num_bets += 1
            self._staked += _stakes(self._num_bets, self._num_bets).item()
        self.num_rows += 1
        self.num_hits += bool(hit)
        # Only hits increase wealth.
        if hit and self.alarm_at is None and self.wealth >= 1 / self.level:
            self.alarm_at = self.num_rows
        return self.alarm

    @property
    def wealth(self) -> float:
        """Total wealth of all bets, including the stakes of bets not yet started."""
        begun = np.array(self._begun)
        stakes = _stakes(self._num_bets - len(begun) + 1, self._num_bets)
        wealth = _log_wealth(self.num_rows - begun[:, 0], self.num_hits - begun[:, 1], self.rate)
        # 500 is far above the alarm threshold.
        return float(stakes @ np.exp(np.minimum(wealth, 500)) + 1 - self._staked)


def _stakes(first: int, last: int) -> np.ndarray:
    """Return the stakes of bets `first` to `last`, counted from 1; the stakes of all bets sum to 1."""
    return 6 / (math.pi * np.arange(first, last + 1)) ** 2
