# SPDX-License-Identifier: Apache-2.0
"""What a monitor counts and keeps."""

import json
import random
from types import SimpleNamespace

import pytest

from hf_sidenet.monitoring import ShadowMonitor, shadow


def add(monitor, row, label, **kwargs):
    return monitor.settle(monitor.choose(), row, label, **kwargs)


def test_what_it_counts():
    monitor = ShadowMonitor(0.1, share=1.0, keep=2)
    add(monitor, "a", 0, early=True, disagrees=False)
    add(monitor, "b", 1, early=True, disagrees=True)
    add(monitor, "c", 1, early=False, disagrees=False)
    monitor.drop(monitor.choose())
    monitor.choose()
    report = monitor.report()
    assert (report.num_rows, report.num_chosen, report.num_early, report.num_disagreements) == (5, 3, 2, 1)
    assert (report.num_failed, report.rate, report.alarm, report.alarm_at) == (1, 1 / 3, False, None)
    assert report.interval[0] < 1 / 3 < report.interval[1]
    assert json.loads(json.dumps(report.to_dict()))["limit"] == 0.1
    # The newest, with what the MainNet says.
    assert monitor.rows() == [{"text": "b", "label": 1}, {"text": "c", "label": 1}]


def test_before_the_first_row():
    report = ShadowMonitor(0.1).report()
    assert (report.rate, report.interval, report.num_chosen) == (None, (0.0, 1.0), 0)


def test_pairs_have_two_columns():
    monitor = ShadowMonitor(0.1, share=1.0)
    add(monitor, ("a", "b"), 2, early=False, disagrees=False)
    assert monitor.rows(("premise", "hypothesis")) == [{"premise": "a", "hypothesis": "b", "label": 2}]
    monitor = ShadowMonitor(0.1, share=1.0)
    add(monitor, {"input_ids": [1, 2]}, "good", early=False, disagrees=False)
    assert monitor.rows() == [{"input_ids": [1, 2], "label": "good"}]


def test_the_share_of_rows():
    monitor = ShadowMonitor(0.1, share=0.2, seed=0)
    chosen = sum(monitor.choose() is not None for _ in range(10_000))
    assert 1850 < chosen < 2150
    again = ShadowMonitor(0.1, share=0.2, seed=0)
    assert sum(again.choose() is not None for _ in range(10_000)) == chosen


def test_an_alarm():
    monitor = ShadowMonitor(0.05, share=1.0)
    assert [add(monitor, i, 0, early=True, disagrees=True) for i in range(6)][-1]
    report = monitor.report()
    assert report.alarm
    assert 1 < report.alarm_at <= 6
    assert report.interval[0] > 0.05


def test_the_limit_that_was_certified():
    def config(*targets):
        return SimpleNamespace(calibration={"targets": [{"target": target} for target in targets]})

    assert ShadowMonitor.from_config(config("flops<=0.5", "disagreement<=0.02"), share=0.5).limit == 0.02
    for found in (config("accuracy_drop<=0.01"), SimpleNamespace(calibration=None)):
        with pytest.raises(ValueError, match=r"must have a target `disagreement<=\.\.\.`, got .*: pass `limit`"):
            ShadowMonitor.from_config(found)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"limit": 0.0}, r"`limit` must be in \(0, 1\), got 0.0"),
        ({"limit": "0.1"}, r"`limit` must be in \(0, 1\), got '0.1'"),
        ({"limit": 0.1, "share": 0}, r"`share` must be in \(0, 1\], got 0"),
        ({"limit": 0.1, "share": 1.5}, r"`share` must be in \(0, 1\], got 1.5"),
        ({"limit": 0.1, "level": 0}, r"`level` must be in \(0, 1\), got 0"),
        ({"limit": 0.1, "keep": -1}, "`keep` must be an integer ≥ 0, got -1"),
    ],
)
def test_impossible_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ShadowMonitor(**kwargs)


def test_the_mainnet_cannot_disagree_with_itself():
    with pytest.raises(ValueError, match="`disagrees` must be False for a row that the MainNet answered"):
        add(ShadowMonitor(0.1, share=1.0), "a", 0, early=False, disagrees=True)


def test_rows_count_in_the_order_in_which_they_were_chosen():
    """Early rows come later, since the MainNet runs once more for them."""
    monitor = ShadowMonitor(0.1, share=1.0)
    first, second, third, fourth = (monitor.choose() for _ in range(4))
    monitor.settle(third, "c", 1, early=False, disagrees=False)
    monitor.settle(second, "b", 1, early=False, disagrees=False)
    assert monitor.report().num_chosen == 0
    monitor.settle(first, "a", 0, early=True, disagrees=True)
    assert (monitor.report().num_chosen, monitor.report().num_disagreements) == (3, 1)
    assert [row["text"] for row in monitor.rows()] == ["a", "b", "c"]
    monitor.drop(fourth)
    # Twice is once.
    monitor.settle(fourth, "d", 1, early=False, disagrees=False)
    assert (monitor.report().num_chosen, monitor.report().num_failed) == (3, 1)


def test_a_row_that_is_never_settled_does_not_hold_up_the_others_for_ever(monkeypatch):
    monkeypatch.setattr(shadow, "MAX_OPEN", 5)
    monitor = ShadowMonitor(0.1, share=1.0)
    monitor.choose()
    for i in range(8):
        add(monitor, str(i), 0, early=False, disagrees=False)
    assert (monitor.report().num_chosen, monitor.report().num_failed) == (8, 1)


@pytest.mark.parametrize("share_early", [0.1, 0.5])
def test_false_alarms_where_early_rows_come_in_bursts(share_early):
    """The rate is what is allowed; the MainNet runs for the early rows 32 at a time."""
    generator, alarms = random.Random(0), 0
    for _ in range(60):
        monitor, waiting = ShadowMonitor(0.02, share=1.0), []
        for _ in range(3000):
            ticket, early = monitor.choose(), generator.random() < share_early
            if not early:
                monitor.settle(ticket, None, 0, early=False, disagrees=False)
                continue
            waiting.append((ticket, generator.random() < 0.02 / share_early))
            if len(waiting) == 32:
                for each, disagrees in waiting:
                    monitor.settle(each, None, 0, early=True, disagrees=disagrees)
                waiting.clear()
        alarms += monitor.alarm
    assert alarms <= 3
