# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_sidenet.calibration import (
    TooFewRowsError,
    calibrate,
    check_enough,
    fit_temperatures,
    parse_targets,
    select_thresholds,
)
from hf_sidenet.calibration.targets import AccuracyDrop, Disagreement, SelectiveError
from hf_sidenet.measurement import replay

from .cases import costs, records


PATH = [[theta, theta] for theta in (1.0, 0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)]
ONE = [1.0] * 3


def select(rows, target, **kwargs):
    return select_thresholds(rows, costs(), kwargs.pop("path", PATH), ONE, parse_targets(target), **kwargs)


def test_needed_rows_is_ln_delta_by_ln_one_minus_epsilon():
    # ln 0.05 / ln 0.99 = 298.07
    assert Disagreement(0.01).needed_rows(0.05) == 299
    assert AccuracyDrop(0.01).needed_rows(0.05, "binomial") == 299
    assert AccuracyDrop(0.01).needed_rows(0.05, "paired") in (299, 300)
    assert AccuracyDrop(0.01).needed_rows(0.05, "betting") > 299


def test_a_level_below_what_the_paired_test_resolves():
    with pytest.raises(ValueError, match=r"`confidence_level` must leave each target a level above 0\.0002"):
        AccuracyDrop(0.01).needed_rows(1e-5, "paired")
    assert AccuracyDrop(0.01).needed_rows(1e-5, "binomial") == 1146


@pytest.mark.parametrize("test", ["paired", "binomial", "betting"])
def test_exactly_enough_rows_can_pass_and_one_less_is_refused(test):
    target = AccuracyDrop(0.05)
    needed = target.needed_rows(0.05, test)
    check_enough(target, 0.05, test, needed)
    with pytest.raises(
        TooFewRowsError, match=f"needs at least {needed} certification rows.*got {needed - 1}"
    ) as error:
        check_enough(target, 0.05, test, needed - 1)
    assert (error.value.needed, error.value.num_rows) == (needed, needed - 1)
    perfect = records(needed).select(range(needed))
    perfect.exit_logits[:] = 3 * perfect.mainnet_logits.unsqueeze(1)
    assert select(perfect, "accuracy_drop<=0.05", test=test).chosen is not None


def test_the_walk_stops_at_the_first_point_that_is_not_rejected():
    rows = records(3000)
    found = select(rows, "accuracy_drop<=0.05")
    assert [point.certified for point in found.points] == [True] * (len(found.points) - 1) + [False]
    assert len(found.points) < len(PATH)
    assert found.chosen == found.points[-2]
    assert found.points[-1].risks["accuracy_drop<=0.05"].p_value > 0.05
    # A later point would be fine again: the walk must not reach it.
    again = [*PATH[: len(found.points)], [1.0, 1.0]]
    assert select(rows, "accuracy_drop<=0.05", path=again).points == found.points


def test_a_point_says_what_the_rows_say():
    rows = records(3000)
    point = select(rows, "accuracy_drop<=0.05").chosen
    exit_index = replay(rows.exit_logits, point.thresholds, ONE)
    assert point.flops == pytest.approx(costs().average(exit_index, "flops"))
    assert point.shares == pytest.approx([(exit_index == i).double().mean().item() for i in range(3)])


@pytest.mark.parametrize("test", ["paired", "betting"])
def test_a_gain_is_certified_where_sidenets_are_better(test):
    """The first points of the path, where few rows exit, cannot show it."""
    fine = [[1 - i / 40] * 2 for i in range(20)]
    rows, design = records(4000, mainnet_error=0.25), records(1000, seed=1, mainnet_error=0.25)
    for target, least in (("accuracy_drop<=0", 0.0), ("accuracy_drop<=-0.03", 0.03)):
        found = select(rows, target, path=fine, design=design, test=test)
        assert found.points[0].thresholds != fine[0]
        assert found.chosen.accuracy > rows.accuracy(rows.mainnet_logits) + least
        assert found.chosen.risks[target].estimate < -least
    as_good = records(4000, mainnet_error=0.05)
    assert select(as_good, "accuracy_drop<=0", path=fine, design=design, test=test).chosen is None
    with pytest.raises(ValueError, match="`design` must be given for accuracy_drop"):
        select(rows, "accuracy_drop<=0", path=fine, test=test)


def test_what_a_gain_needs():
    with pytest.raises(
        ValueError, match="`test_method` must be 'paired' or 'betting' for accuracy_drop<=0, got 'bino"
    ):
        select(records(100), "accuracy_drop<=0", test="binomial", design=records(100, seed=1))
    assert 3 < AccuracyDrop(0.0).needed_rows(0.05, "paired") < AccuracyDrop(-0.5).needed_rows(0.05, "paired") < 50


@pytest.mark.medium
def test_several_risks_share_delta():
    rows = records(3000)
    fine = [[1 - i / 1000] * 2 for i in range(500)]
    both = select(rows, "accuracy_drop<=0.05,disagreement<=0.12", path=fine)
    # Alone, the point where it ends would pass.
    assert 0.025 < max(estimate.p_value for estimate in both.points[-1].risks.values()) <= 0.05
    assert set(both.points[0].risks) == {"accuracy_drop<=0.05", "disagreement<=0.12"}
    for point in both.points:
        assert point.certified == all(estimate.p_value <= 0.025 for estimate in point.risks.values())
    alone = [select(rows, text, path=fine).chosen.flops for text in ("accuracy_drop<=0.05", "disagreement<=0.12")]
    assert both.chosen.flops >= max(alone)


def test_a_stricter_level_never_saves_more():
    rows = records(3000)
    flops = [select(rows, "accuracy_drop<=0.05", confidence_level=level).chosen.flops for level in (0.8, 0.95, 0.999)]
    assert flops == sorted(flops)


def test_a_budget_alone_takes_the_most_accurate_point_within_it():
    rows = records(3000)
    found = select(rows, "flops<=0.8")
    within = [point for point in found.points if point.flops <= 0.8]
    assert len(found.points) == len(PATH)
    assert 0 < len(within) < len(PATH)
    assert found.chosen.accuracy == max(point.accuracy for point in within)
    assert not any(point.certified for point in found.points)


@pytest.mark.parametrize(("target", "unit"), [("params<=0.8", "params"), ("latency_ms<=0.8", "milliseconds")])
def test_budgets_in_other_units(target, unit):
    assert getattr(select(records(3000), target).chosen, unit) <= 0.8


def test_a_budget_within_what_is_certified():
    rows = records(3000)
    certified = select(rows, "accuracy_drop<=0.05").chosen
    limit = certified.flops + 0.02
    found = select(rows, f"accuracy_drop<=0.05,flops<={limit}")
    assert found.chosen.flops <= limit
    assert found.chosen.certified
    # A budget that is kept anyway changes nothing.
    assert select(rows, "accuracy_drop<=0.05,latency_ms<=50").chosen.thresholds == certified.thresholds
    refused = select(rows, "accuracy_drop<=0.05,flops<=0.4")
    assert refused.chosen is None
    assert refused.reason == f"no certified threshold is within the budget: flops {certified.flops:.3g} for ≤ 0.4."


def test_selective_error_starts_where_the_design_rows_expect_it_to_pass():
    rows, design = records(3000), records(500, seed=1)
    found = select(rows, "selective_error<=0.2", design=design)
    assert found.points[0].thresholds != PATH[0]
    assert found.points[0].risks["selective_error<=0.2"].num_rows >= SelectiveError(0.2).needed_rows(0.05)
    assert found.chosen.certified
    other = rows.select(torch.randperm(3000))
    assert select(other, "selective_error<=0.2", design=design).points[0].thresholds == found.points[0].thresholds
    with pytest.raises(ValueError, match="`design` must be given for selective_error"):
        select(rows, "selective_error<=0.2")


def test_nothing_to_gain_is_said_with_the_numbers():
    wrong = records(3000)
    wrong.exit_logits[:, :2] = -3 * wrong.mainnet_logits.unsqueeze(1)
    found = select(wrong, "accuracy_drop<=0.01")
    assert found.chosen is None
    assert "1.002 of the plain MainNet's FLOPs, SideNets included: attaching does not pay" in found.reason
    worse = select_thresholds(wrong.select(range(3000)), costs(), PATH[4:], ONE, parse_targets("accuracy_drop<=0.01"))
    assert worse.chosen is None
    assert "no threshold is certified (accuracy_drop<=0.01: 0." in worse.reason


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"confidence_level": 1.0}, "`confidence_level` must be in .0, 1., got 1.0"),
        ({"test": "t"}, "`test` must be one of .*, got 't'"),
        ({"path": []}, "`path` and `records` must not be empty, got 0 points"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        select(records(500), "accuracy_drop<=0.05", **kwargs)


@pytest.mark.medium
def test_calibrate_keeps_both_sets_to_their_work():
    design, certification = records(500, seed=1), records(3000)
    made = calibrate(design, certification, costs(), parse_targets("accuracy_drop<=0.05"))
    assert made.temperatures == fit_temperatures(design.exit_logits, design.labels)
    shuffled = certification.select(torch.randperm(3000))
    again = calibrate(design, shuffled, costs(), parse_targets("accuracy_drop<=0.05"))
    assert (again.path, again.temperatures) == (made.path, made.temperatures)
    assert again.selection.chosen.thresholds == made.selection.chosen.thresholds


@pytest.mark.medium
def test_the_evidence_says_what_was_done():
    made = calibrate(records(500, seed=1), records(3000), costs(), parse_targets("accuracy_drop<=0.05"))
    evidence = made.evidence(seed=3)
    chosen = made.selection.chosen
    assert evidence["method"] == "Learn-then-Test, fixed-sequence testing"
    assert evidence["targets"][0]["target"] == "accuracy_drop<=0.05"
    assert evidence["targets"][0]["p_value"] == chosen.risks["accuracy_drop<=0.05"].p_value <= 0.05
    assert (evidence["num_design_rows"], evidence["num_certification_rows"], evidence["seed"]) == (500, 3000, 3)
    assert evidence["num_points_tested"] == len(made.selection.points)
    assert evidence["certification"]["flops"] == chosen.flops
    plain = calibrate(records(500, seed=1), records(3000), costs(), parse_targets("flops<=0.8")).evidence()
    assert plain["method"].startswith("none")
    assert (plain["confidence_level"], plain["targets"]) == (None, [{"target": "flops<=0.8"}])
