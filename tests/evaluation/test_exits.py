# SPDX-License-Identifier: Apache-2.0
import json
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hf_sidenet.evaluation import DEFAULT_THRESHOLDS, ExitEvaluation, Interval, sweep
from hf_sidenet.evaluation.exits import oracle_index
from hf_sidenet.measurement import (
    PAPER_BINS,
    STANDARD_BINS,
    ExitCosts,
    ExitRecords,
    expected_calibration_error,
    replay,
)
from hf_sidenet.models.tasks import SINGLE_LABEL


COSTS = ExitCosts(
    params=[10, 30, 44],
    flops=[1.0, 2.0, 4.4],
    milliseconds=[0.5, 0.75, 1.25],
    mainnet_params=40,
    mainnet_flops=4.0,
    mainnet_milliseconds=1.0,
    num_threads=1,
    device="cpu",
    # A machine of constant speed: intervals are over rows alone.
    rounds=[[0.5, 0.75, 1.25, 1.0]] * 3,
)
TWO = replace(COSTS, params=[10, 44], flops=[1.0, 4.4], milliseconds=[0.5, 1.25], rounds=[[0.5, 1.25, 1.0]] * 3)
CURRENCIES = ("params", "flops", "milliseconds")
NAN = float("nan")


def records(*rows, mainnet=None):
    """One row each: `(confidence, is right)` of every exit, of two classes; the label is 0."""
    exits = [[torch.tensor([p, 1 - p] if right else [1 - p, p]).log() for p, right in row] for row in rows]
    exit_logits = torch.stack([torch.stack(row) for row in exits])
    mainnet_logits = exit_logits[:, -1].clone() if mainnet is None else mainnet
    return ExitRecords(exit_logits, torch.zeros(len(rows), dtype=torch.long), mainnet_logits)


def random_records(seed, num_rows=40, num_exits=3, num_labels=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_labels, (num_rows,), generator=generator)
    noise = 2 * torch.randn(num_rows, num_exits + 1, num_labels, generator=generator)
    logits = noise + 2 * torch.nn.functional.one_hot(labels, num_labels)[:, None]
    return ExitRecords(logits[:, :-1].contiguous(), labels, logits[:, -1].clone())


# Exits 0, 1 and the MainNet; θ = 0.8 for both.
FIVE = records(
    [(0.9, True), (0.9, True), (0.95, True)],  # leaves at 0
    [(0.9, False), (0.6, True), (0.95, True)],  # leaves at 0, wrong
    [(0.6, True), (0.9, True), (0.95, False)],  # leaves at 1; both SideNets overthink
    [(0.6, False), (0.6, True), (0.95, False)],  # stays; SideNet 1 overthinks
    [(0.6, False), (0.7, False), (0.95, False)],  # stays; nobody is right
    mainnet=torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]]),
)


def evaluate(rows=FIVE, costs=COSTS, thresholds=(0.8, 0.8), **options):
    return ExitEvaluation.from_records(rows, costs, thresholds=list(thresholds), **{"num_resamples": 50, **options})


def values(intervals):
    return [interval.value for interval in intervals]


def test_routed_and_oracle_by_hand():
    made = evaluate()
    assert made.num_rows == 5
    assert made.reference_accuracy.value == pytest.approx(0.6)
    assert made.routed.accuracy.value == pytest.approx(0.4)
    assert made.routed.accuracy_drop.value == pytest.approx(0.2)
    assert values(made.routed.shares) == pytest.approx([0.4, 0.2, 0.4])
    assert made.routed.params.value == pytest.approx((2 * 0.25 + 0.75 + 2 * 1.1) / 5)
    assert made.routed.flops.value == pytest.approx((2 * 0.25 + 0.5 + 2 * 1.1) / 5)
    assert made.routed.milliseconds.value == pytest.approx((2 * 0.5 + 0.75 + 2 * 1.25) / 5)
    # The rows exit at 0, 1, 0, 1, and the last, which no exit gets right, at 0.
    assert oracle_index(FIVE).tolist() == [0, 1, 0, 1, 0]
    assert made.oracle.thresholds is None
    assert made.oracle.accuracy.value == pytest.approx(0.8)
    assert made.oracle.accuracy_drop.value == pytest.approx(-0.2)
    assert values(made.oracle.shares) == pytest.approx([0.6, 0.4, 0])
    assert made.oracle.flops.value == pytest.approx((3 * 0.25 + 2 * 0.5) / 5)
    assert made.oracle.params.value == pytest.approx((3 * 0.25 + 2 * 0.75) / 5)


def test_exits_by_hand():
    first, second, mainnet = evaluate().exits
    assert [e.name for e in (first, second, mainnet)] == ["SideNet 0", "SideNet 1", "MainNet"]
    assert values(e.accuracy for e in (first, second, mainnet)) == pytest.approx([0.4, 0.8, 0.4])
    assert [e.num_answered for e in (first, second, mainnet)] == [2, 1, 2]
    assert values(e.answered_accuracy for e in (first, second, mainnet)) == pytest.approx([0.5, 1, 0])
    assert values([first.overthinking, second.overthinking]) == pytest.approx([0.2, 0.4])
    assert mainnet.overthinking is None
    # Right 0.9 and 0.6, wrong 0.9, 0.6, 0.6: 0.5 + 1 + 1 for the first, 0 + 0.5 + 0.5 for the second, of 6.
    assert first.auroc.value == pytest.approx(3.5 / 6)
    # Equal confidences: no ranking.
    assert mainnet.auroc.value == pytest.approx(0.5)
    # 15 bins: at 0.9 1 of 2 is right, at 0.6 1 of 3.
    assert first.standard_ece.error.value == pytest.approx((2 * 0.4 + 3 * (0.6 - 1 / 3)) / 5, abs=1e-6)
    assert mainnet.paper_ece.error.value == pytest.approx(0.55, abs=1e-6)
    assert [b.count for b in first.paper_ece.bins] == [0, 0, 0, 3, 0, 0, 2, 0]
    assert first.paper_ece.num_below == 0


def test_ensembles_by_hand():
    # Right class of SideNet 0 and MainNet: (0.9 + 0.95), (0.1 + 0.95), (0.6 + 0.05), (0.4 + 0.05), ...: 2 of 5.
    # SideNet 1 and MainNet: 1.85, 1.55, 0.95, 0.65: 2 of 5. All: 2.75, 1.65, 1.55, 1.05, ... of 3: rows 0, 1, 2.
    made = evaluate()
    assert values(e.ensemble_accuracy for e in made.exits[:2]) == pytest.approx([0.4, 0.4])
    assert made.exits[2].ensemble_accuracy is None
    assert made.ensemble_accuracy.value == pytest.approx(0.6)
    # A MainNet with a huge temperature is uniform, so the SideNet decides.
    hot = evaluate(temperatures=[1.0, 1.0, 1000.0])
    assert values(e.ensemble_accuracy for e in hot.exits[:2]) == pytest.approx([0.4, 0.8])


def test_temperatures_change_who_leaves_and_how_sure_they_are():
    # 0.9 at temperature 2: odds 3, 0.75.
    made = evaluate(temperatures=[2.0, 1.0, 1.0])
    assert values(made.routed.shares) == pytest.approx([0, 0.4, 0.6])
    assert made.exits[0].accuracy.value == pytest.approx(0.4)
    at_six = 1 / (1 + (0.4 / 0.6) ** 0.5)
    expected = (2 * 0.25 + 3 * (at_six - 1 / 3)) / 5
    assert made.exits[0].standard_ece.error.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.medium
@given(seed=st.integers(0, 1000), thresholds=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_values_equal_the_other_ways_to_compute_them(seed, thresholds):
    rows, temperatures = random_records(seed), [0.5, 1.5, 2.0]
    path = [thresholds, [0.4, 0.9], [1.0, 1.0]]
    made = evaluate(rows, thresholds=thresholds, temperatures=temperatures, path=path, num_resamples=2)
    assert made.curve[0] == made.routed
    for point, expected in zip(made.curve, sweep(rows, COSTS, path, temperatures), strict=True):
        assert point.thresholds == expected.thresholds
        assert point.accuracy.value == pytest.approx(expected.accuracy)
        assert values(point.shares) == pytest.approx(expected.shares, abs=1e-6)
        assert [getattr(point, c).value for c in CURRENCIES] == pytest.approx(
            [getattr(expected, c) for c in CURRENCIES]
        )
    answered_at = replay(rows.exit_logits, thresholds, temperatures)
    mainnet_right = rows.exit_logits[:, 2].argmax(-1) == rows.labels
    for i, found in enumerate(made.exits):
        logits = rows.exit_logits[:, i]
        sure, right = SINGLE_LABEL.confidence(logits, temperatures[i]), logits.argmax(-1) == rows.labels
        assert found.paper_ece.error.value == pytest.approx(
            expected_calibration_error(sure, right, **PAPER_BINS), abs=1e-6
        )
        assert found.standard_ece.error.value == pytest.approx(
            expected_calibration_error(sure, right, **STANDARD_BINS), abs=1e-6
        )
        assert found.auroc.value == pytest.approx(roc_auc_score(right, sure))
        if i < 2:
            overthought = sum(a and not b for a, b in zip(right.tolist(), mainnet_right.tolist(), strict=True))
            assert found.overthinking.value == pytest.approx(overthought / 40)
        assert found.answered_accuracy.value == pytest.approx(right[answered_at == i].double().mean(), nan_ok=True)
    # No choice of exits beats the oracle.
    assert made.oracle.accuracy.value >= max(point.accuracy.value for point in [*made.curve, *made.exits])


@pytest.mark.medium
def test_intervals_are_those_of_a_loop_over_resamples():
    rows, seed, num_resamples = random_records(7), 11, 200
    made = evaluate(rows, thresholds=(0.7, 0.8), num_resamples=num_resamples, seed=seed, level=0.8)
    drawn = torch.randint(40, (num_resamples, 40), generator=torch.Generator().manual_seed(seed))
    again = [evaluate(rows.select(index), thresholds=(0.7, 0.8), num_resamples=1, path=[]) for index in drawn]

    def check(get):
        found = get(made)
        samples = torch.tensor([get(other).value for other in again], dtype=torch.float64)
        low, high = samples.nanquantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
        assert [found.low, found.high] == pytest.approx([low, high], abs=1e-6)
        assert found.low < found.high

    for point in ("routed", "oracle"):
        for name in ("accuracy", "accuracy_drop", *CURRENCIES):
            check(lambda e, point=point, name=name: getattr(getattr(e, point), name))
        check(lambda e, point=point: getattr(e, point).shares[1])
    check(lambda e: e.reference_accuracy)
    check(lambda e: e.ensemble_accuracy)
    check(lambda e: e.exits[2].answered_accuracy)
    for name in ("accuracy", "auroc", "overthinking", "ensemble_accuracy"):
        check(lambda e, name=name: getattr(e.exits[1], name))
    check(lambda e: e.exits[2].paper_ece.error)
    check(lambda e: e.exits[2].standard_ece.error)


def test_the_drop_is_paired():
    # No row exits early, and the MainNet is the reference: the drop is 0 in every resample.
    rows = replace(FIVE, mainnet_logits=FIVE.exit_logits[:, -1].clone())
    made = evaluate(rows, thresholds=(1.0, 1.0))
    assert made.routed.accuracy_drop == Interval(0, 0, 0)
    assert made.routed.accuracy.low < made.routed.accuracy.high
    assert values(made.routed.shares) == [0, 0, 1]


def test_the_default_path_is_one_threshold_for_all_sidenets():
    made = evaluate()
    assert [point.thresholds for point in made.curve] == [[t, t] for t in DEFAULT_THRESHOLDS]
    assert evaluate(path=[]).curve == []


def test_what_is_not_defined_is_nan_and_none_in_json():
    right = [(0.9, True), (0.95, True)]
    made = evaluate(records(right, right), TWO, [1.0])
    assert math.isnan(made.exits[0].answered_accuracy.value)
    assert all(math.isnan(x) for x in (made.exits[0].auroc.value, made.exits[1].auroc.low))
    plain = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert plain["exits"][0]["answered_accuracy"] == {"value": None, "low": None, "high": None}
    assert plain["exits"][0]["standard_ece"]["bins"][0]["accuracy"] is None
    assert plain["exits"][1]["overthinking"] is None
    assert plain["oracle"]["thresholds"] is None
    assert plain["routed"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert plain["costs"]["params"] == [10, 44]
    assert set(plain) == {field.name for field in fields(ExitEvaluation)}


def test_rows_without_numbers_are_wrong_unsure_and_counted():
    broken = torch.tensor([[NAN, NAN], [0.0, 3.0]])
    exit_logits = torch.stack([broken, torch.tensor([[3.0, 0.0], [0.0, 3.0]])], 1)
    rows = ExitRecords(exit_logits, torch.tensor([0, 1]), exit_logits[:, 1].clone())
    made = evaluate(rows, TWO, [0.8])
    assert made.exits[0].accuracy.value == 0.5
    assert made.exits[0].paper_ece.num_below == 1
    assert made.exits[0].auroc.value == 1
    assert values(made.routed.shares) == [0.5, 0.5]
    assert made.exits[0].ensemble_accuracy.value == 0.5
    assert made.ensemble_accuracy.value == 0.5
    assert oracle_index(rows).tolist() == [1, 0]


def test_the_seed_decides():
    assert evaluate(seed=3).to_dict() == evaluate(seed=3).to_dict()
    first, second = (evaluate(random_records(1), seed=seed).routed for seed in (3, 4))
    assert first.accuracy.value == second.accuracy.value
    assert first.flops != second.flops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": FIVE.select([])}, "`records` must hold at least one row, got none"),
        ({"thresholds": [0.8]}, "`thresholds` must have one value per SideNet"),
        ({"path": [[0.8, -1.0]]}, "`thresholds` must contain numbers that are ≥ 0"),
        ({"temperatures": [1.0, 1.0]}, "`temperatures` must have one value per exit"),
        ({"costs": TWO}, "`costs` must be of the same model"),
        ({"level": 95}, "`level`"),
        ({"num_resamples": 0}, "`num_resamples`"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_text_by_hand():
    text = evaluate(path=[[0.8, 0.8], [1.0, 1.0]]).text()
    lines = text.splitlines()
    assert lines[0] == ("5 rows. In brackets: 95 % percentile bootstrap intervals over rows (50 resamples, seed 0).")
    assert "Routed at θ = 0.8." in text
    tables = [line for line in lines if line.startswith("|")]
    assert sum(line.startswith("| :--") for line in tables) == 5
    by_name = {}
    for line in tables:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        by_name.setdefault(cells[0], []).append([cell.split(" [")[0] for cell in cells[1:]])
    assert by_name["MainNet alone"] == [["60.00", "0", "1", "1", "1"]]
    assert by_name["routed"] == [["40.00", "20.00", "0.690", "0.640", "0.850"]]
    assert by_name["oracle"][0][:2] == ["80.00", "-20.00"]
    assert by_name["SideNet 1"][0] == ["20.0", "100.00", "80.00", "0.500", "40.00", "40.00"]
    assert by_name["MainNet"][0] == ["40.0", "0.00", "40.00", "0.500", "–", "–"]
    # Confidence 0.95, accuracy 0.4; if calibrated, 0 to 2 of 5 rows would be wrong.
    ece, calibrated, below, standard, _ = by_name["MainNet"][1]
    assert (ece, below, standard) == ("55.00", "0", "55.00")
    assert 5 <= float(calibrated) < 15
    assert by_name["1"] == [["40.00", "20.00", "1.100", "1.100", "1.250", "0.0", "0.0", "100.0"]]
    assert "nan" not in evaluate(records([(0.9, True), (0.9, True)]), TWO, [1.0]).text()
    assert "-0.00" not in text
