# SPDX-License-Identifier: Apache-2.0
"""The settings that θ can be moved to."""

import copy

import pytest

from hf_sidenet import SideNetConfig
from hf_sidenet.demo import read_dial
from hf_sidenet.report import Report

from ..models import tiny


def config(thresholds=(0.8, 0.6)):
    return SideNetConfig(tiny.bert().config, exit_layers=[1, 3], thresholds=list(thresholds), block_shapes=[[32]] * 3)


def test_one_theta_for_all_where_there_is_no_report():
    dial = read_dial(config((0.5, 0.5)), {})
    thetas = [position.thresholds for position in dial.positions]
    assert (thetas[0], thetas[-1], len(thetas)) == ((1.0, 1.0), (0.0, 0.0), 21)
    assert thetas[dial.chosen] == (0.5, 0.5)
    assert (dial.rows, dial.measured) == (None, [])


def test_the_own_theta_is_always_there_in_its_place():
    dial = read_dial(config((0.8, 0.61)), {})
    sums = [sum(position.thresholds) for position in dial.positions]
    assert sums == sorted(sums, reverse=True)
    assert dial.positions[dial.chosen].thresholds == (0.8, 0.61)
    last = read_dial(config((0.0, 0.0)), {"path": [point((0.9, 0.9))], "data": {"num_design_rows": 5}})
    assert last.chosen == len(last.positions) - 1 == 1


def point(thresholds, accuracy=0.9, flops=0.5):
    return {"thresholds": list(thresholds), "accuracy": accuracy, "flops": flops}


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_test_rows_come_before_design_rows():
    path = {"path": [point((1.0, 1.0), 0.95, 1.0), point((0.8, 0.6))], "data": {"num_design_rows": 1200}}
    dial = read_dial(config(), path)
    assert dial.rows == "1,200 design rows of the calibration"
    assert (dial.positions[1].accuracy, dial.positions[1].interval, dial.chosen) == (0.9, None, 1)
    curve = [point((0.8, 0.6), interval(0.7), interval(0.4))]
    dial = read_dial(config(), path | {"evaluation": {"num_rows": 3000, "curve": curve}})
    assert dial.rows == "3,000 test rows"
    assert [position.flops for position in dial.positions] == [0.4]
    assert dial.positions[0].interval == pytest.approx((0.6, 0.8))
    # A recalibrated checkpoint.
    assert read_dial(config(), path | {"evaluation": None}).rows.endswith("calibration")


@pytest.mark.medium
def test_of_a_real_report(checkpoint):
    own = SideNetConfig.from_pretrained(checkpoint)
    dial = read_dial(own, Report.load(checkpoint))
    assert dial.rows == "80 test rows"
    assert dial.positions[dial.chosen].thresholds == tuple(own.thresholds)
    assert dial.positions[dial.chosen].accuracy is not None
    costs = [position.flops for position in dial.positions]
    assert costs[0] == max(costs) > 1 > costs[-1] == min(costs)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("path",), [], r"`path` must be a list of points with 2 `thresholds`"),
        (("path", 0, "thresholds"), [0.5], "`path` must be"),
        (("path", 0, "accuracy"), "0.9", "`path` must be"),
        (("path", 0, "flops"), float("nan"), "`path` must be"),
        (("data",), None, "`data` must be an object"),
        (("data", "num_design_rows"), -1, "`data.num_design_rows` must be an integer ≥ 0, got -1"),
        (("evaluation",), [1], "`evaluation` must be an object or null"),
        (("evaluation", "num_rows"), "many", "evaluation: `num_rows` must be an integer"),
        (("evaluation", "curve"), {}, "evaluation: `curve` must be"),
        (("evaluation", "curve", 0, "accuracy"), 0.5, "evaluation: `curve` must be"),
    ],
)
def test_a_damaged_report(where, value, message):
    report = {
        "path": [point((1.0, 1.0))],
        "data": {"num_design_rows": 12},
        "evaluation": {"num_rows": 3, "curve": [point((1.0, 1.0), interval(0.7), interval(0.4))]},
    }
    damaged = copy.deepcopy(report)
    if where[0] != "evaluation":
        del damaged["evaluation"]
    inner = damaged
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(ValueError, match=message):
        read_dial(config(), damaged)
