# SPDX-License-Identifier: Apache-2.0
"""Bets against a rate: fair, monotone, and right over many runs."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hf_sidenet.monitoring import ChangeDetector, anytime_interval, log_wealth


RATES = st.floats(0.001, 0.999)
# The first call imports scipy.
SLOW = settings(deadline=None)
COUNTS = st.integers(0, 500).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows)))


@SLOW
@given(COUNTS, RATES)
# Far in the tail, where the mass above the rate is not a normal floating-point number.
@example((138, 0), 0.995)
@example((500, 0), 0.999)
def test_nobody_wins_on_average(counts, rate):
    """One more row at exactly this rate leaves the wealth as it is, on average; at a lower rate it shrinks."""
    rows, hits = counts
    now = log_wealth(rows, hits, rate)
    # Less than that is nothing, in floating point.
    assume(now > -300)
    won, lost = (math.exp(log_wealth(rows + 1, more, rate) - now) for more in (hits + 1, hits))
    assert rate * won + (1 - rate) * lost == pytest.approx(1, rel=1e-6)
    assert won >= lost


def test_by_hand():
    # Half of the prior Beta(1/2, 1/2) is above 1/2; one hit makes it Beta(3/2, 1/2), of which 1/2 + 1/π is.
    assert log_wealth(0, 0, 0.5) == pytest.approx(0)
    assert math.exp(log_wealth(1, 1, 0.5)) == pytest.approx((0.5 + 1 / math.pi) / 0.5)


@SLOW
@given(COUNTS, st.sampled_from([0.01, 0.05, 0.2]))
def test_an_interval_holds_what_was_seen(counts, level):
    rows, hits = counts
    low, high = anytime_interval(rows, hits, level)
    assert 0 <= low <= high <= 1
    if rows:
        assert low <= hits / rows <= high
    # Rates just outside are refuted.
    if low > 1e-6:
        assert log_wealth(rows, hits, low * (1 - 1e-6)) >= math.log(2 / level) - 1e-3
    wider = anytime_interval(rows, hits, level / 2)
    assert wider[0] <= low
    assert wider[1] >= high


@SLOW
@given(COUNTS)
def test_misses_are_hits_from_the_other_side(counts):
    rows, hits = counts
    low, high = anytime_interval(rows, hits)
    assert anytime_interval(rows, rows - hits) == pytest.approx((1 - high, 1 - low))


@pytest.mark.medium
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_intervals_hold_all_the_time(rate):
    """200 runs, looked at again and again: the true rate is outside ever in at most 5 % of them."""
    generator = np.random.default_rng(0)
    looks = [10, 30, 100, 300, 1000, 2000]
    outside = 0
    for _ in range(200):
        hits = np.cumsum(generator.random(looks[-1]) < rate)
        bounds = [anytime_interval(rows, int(hits[rows - 1])) for rows in looks]
        outside += any(not low <= rate <= high for low, high in bounds)
    assert outside <= 10


@pytest.mark.medium
def test_false_alarms_over_200_runs():
    """The rate is just what is allowed, 3,000 rows each, an alarm may come after each of them."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        detector = ChangeDetector(0.02)
        for hit in generator.random(3000) < 0.02:
            detector.add(hit)
        alarms += detector.alarm
    assert alarms <= 10


def test_a_change_after_a_long_good_time_is_seen():
    """From half of what is allowed to three times as much: within 1,500 of the rows that are looked at."""
    generator = np.random.default_rng(1)
    for _ in range(40):
        detector = ChangeDetector(0.02)
        for hit in generator.random(3000) < 0.01:
            detector.add(hit)
        assert not detector.alarm
        for hit in generator.random(1500) < 0.06:
            detector.add(hit)
        assert detector.alarm
        assert 3000 < detector.alarm_at <= 4500


def test_without_new_bets_it_would_be_late():
    generator = np.random.default_rng(1)
    hits = np.concatenate([generator.random(20_000) < 0.005, generator.random(1500) < 0.06])
    with_bets, without = ChangeDetector(0.02), ChangeDetector(0.02, epoch=10**9)
    for hit in hits:
        with_bets.add(hit)
        without.add(hit)
    assert (with_bets.alarm, without.alarm) == (True, False)


def test_old_bets_are_given_up():
    """However long it runs it does not grow, and it still sees a change."""
    detector = ChangeDetector(0.02, epoch=1)
    for _ in range(20):
        for row in range(200):
            detector.add(row == 0)
    assert len(detector._begun) == 1000
    assert 0 <= detector.wealth < 1 / detector.level
    for _ in range(20):
        detector.add(True)
    assert detector.alarm


def test_an_alarm_stays():
    detector = ChangeDetector(0.1, epoch=10)
    for _ in range(8):
        detector.add(True)
    raised = detector.alarm_at
    assert raised is not None
    for _ in range(500):
        detector.add(False)
    assert (detector.alarm, detector.alarm_at) == (True, raised)


@SLOW
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_stakes_are_one(hits, epoch):
    detector = ChangeDetector(0.3, epoch=epoch)
    assert detector.wealth == pytest.approx(1)
    for hit in hits:
        before = detector.wealth
        detector.add(hit)
        assert detector.wealth > 0
        assert (detector.wealth >= before - 1e-9) == hit or detector.wealth == pytest.approx(before)
    assert (detector.num_rows, detector.num_hits) == (len(hits), sum(hits))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_wealth(3, 4, 0.5), "`num_hits` must be between 0 and `num_rows`, 3, got 4"),
        (lambda: log_wealth(3, 1, 0.0), r"`rate` must be in \(0, 1\), got 0.0"),
        (lambda: log_wealth(3, 1, float("nan")), r"`rate` must be in \(0, 1\), got nan"),
        (lambda: anytime_interval(3, 1, 1.0), r"`level` must be in \(0, 1\), got 1.0"),
        (lambda: anytime_interval(-1, 0), "`num_hits` must be between 0"),
        (lambda: ChangeDetector(1.0), r"`rate` must be in \(0, 1\)"),
        (lambda: ChangeDetector(0.1, level=True), r"`level` must be in \(0, 1\), got True"),
        (lambda: ChangeDetector(0.1, epoch=0), "`epoch` must be an integer ≥ 1, got 0"),
    ],
)
def test_impossible_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
