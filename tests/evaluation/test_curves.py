# SPDX-License-Identifier: Apache-2.0
import csv
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_sidenet.evaluation.curves import CurvePoint, fixed_points, format_thresholds, sweep, table, write_csv
from hf_sidenet.measurement import ExitCosts, ExitRecords, collect, measure_costs
from tests.measurement.models import texts, tiny_bert
from tests.models.naive import choose


COSTS = ExitCosts(
    params=[10, 30, 44],
    flops=[1.0, 2.0, 4.4],
    milliseconds=[0.5, 0.75, 1.25],
    mainnet_params=40,
    mainnet_flops=4.0,
    mainnet_milliseconds=1.0,
    num_threads=1,
    device="cpu",
)
POINT = CurvePoint([0.9, 0.9], 0.875, [0.5, 0.25, 0.25], 0.5875, 0.525, 0.75)


def random_records(seed, num_rows=12):
    generator = torch.Generator().manual_seed(seed)
    exit_logits = 2 * torch.randn(num_rows, 3, 3, generator=generator)
    labels = torch.randint(0, 3, (num_rows,), generator=generator)
    return ExitRecords(exit_logits, labels, torch.randn(num_rows, 3, generator=generator))


@given(
    seed=st.integers(0, 10_000),
    threshold=st.floats(0, 1),
    temperatures=st.one_of(st.none(), st.lists(st.floats(0.5, 4), min_size=3, max_size=3)),
)
def test_sweep_equals_a_loop_over_rows(seed, threshold, temperatures):
    records = random_records(seed)
    exit_index, rows, ties = choose(records.exit_logits, [threshold] * 2, temperatures)
    assume(not ties.any())
    (point,) = sweep(records, COSTS, [threshold], temperatures)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(rows, records.labels, strict=True))
    assert point.accuracy == pytest.approx(right / len(records))
    assert point.shares == pytest.approx([exit_index.tolist().count(i) / len(records) for i in range(3)])
    assert point.params == pytest.approx(sum([0.25, 0.75, 1.1][i] for i in exit_index) / len(records))
    assert point.flops == pytest.approx(sum([0.25, 0.5, 1.1][i] for i in exit_index) / len(records))
    assert point.milliseconds == pytest.approx(sum([0.5, 0.75, 1.25][i] for i in exit_index) / len(records))


def test_sweep_takes_one_threshold_per_sidenet():
    records = random_records(1)
    points = sweep(records, COSTS, [[0.5, 1.0], [1.0, 0.5], 0.5])
    assert [point.thresholds for point in points] == [[0.5, 1.0], [1.0, 0.5], [0.5, 0.5]]
    confident = records.exit_logits.softmax(-1).amax(-1) > 0.5
    first, second = (confident[:, i].double().mean().item() for i in range(2))
    both = (confident[:, 1] & ~confident[:, 0]).double().mean().item()
    assert 0 < both < second < 1
    assert points[0].shares == pytest.approx([first, 0, 1 - first])
    assert points[1].shares == pytest.approx([0, second, 1 - second])
    assert points[2].shares == pytest.approx([first, both, 1 - first - both])
    with pytest.raises(ValueError, match="`thresholds`"):
        sweep(records, COSTS, [[0.5]])


def test_the_default_sweep_goes_from_everybody_to_nobody():
    points = sweep(random_records(0), COSTS)
    thetas = [point.thresholds[0] for point in points]
    assert thetas == sorted(thetas)
    assert points[0].shares == [1, 0, 0]
    assert points[-1].shares == [0, 0, 1]
    assert points[-1].flops == pytest.approx(1.1)
    later = [point.shares[0] for point in points]
    assert later == sorted(later, reverse=True)


def test_fixed_points():
    records = random_records(3)
    mainnet, first, second = fixed_points(records, COSTS)
    assert [p.name for p in (mainnet, first, second)] == ["MainNet alone", "SideNet 0 alone", "SideNet 1 alone"]
    assert (mainnet.params, mainnet.flops, mainnet.milliseconds) == (1, 1, 1)
    right = (records.mainnet_logits.argmax(-1) == records.labels).sum().item()
    assert mainnet.accuracy == pytest.approx(right / 12)
    for i, point in enumerate((first, second)):
        right = (records.exit_logits[:, i].argmax(-1) == records.labels).sum().item()
        assert point.accuracy == pytest.approx(right / 12)
        assert point.flops == pytest.approx([0.25, 0.5][i])
        assert point.shares[i] == 1
        (routed,) = [p for p in sweep(records, COSTS, [0.0]) if i == 0] or [point]
        assert replace(routed, name="", thresholds=[]) == replace(point, name="", thresholds=[])


def test_from_a_model_to_the_table():
    model, batches = tiny_bert(), [texts(8)]
    records, costs = collect(model, batches, progress=False), measure_costs(model, batches, repeats=1)
    points = [*fixed_points(records, costs), *sweep(records, costs, [0.6, 1.0])]
    assert points[-1].accuracy == points[0].accuracy
    assert 1 < points[-1].flops < 1.1
    assert len(table(points).splitlines()) == 2 + 5


def test_table_by_hand():
    assert table([POINT, replace(POINT, name="MainNet alone")]).splitlines() == [
        "| θ | accuracy % | exit 0 % | exit 1 % | MainNet % | params | FLOPs | ms |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
        "| 0.9 | 87.50 | 50.0 | 25.0 | 25.0 | 0.588 | 0.525 | 0.750 |",
        "| MainNet alone | 87.50 | 50.0 | 25.0 | 25.0 | 0.588 | 0.525 | 0.750 |",
    ]


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [([0.9], "0.9"), ([1.0, 1.0], "1"), ([0.1 + 0.2], "0.3"), ([0.9, 0.95], "0.9/0.95"), ([0.99999999], "0.99999999")],
)
def test_thresholds_are_printed_compactly(thresholds, text):
    assert format_thresholds(thresholds) == text


def test_csv_reads_back(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("old")
    write_csv([POINT, replace(POINT, name="MainNet alone")], path)
    with open(path, newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["name"], second["name"]) == ("", "MainNet alone")
    assert [float(first[f"threshold_{i}"]) for i in range(2)] == POINT.thresholds
    assert [float(first[f"share_{i}"]) for i in range(3)] == POINT.shares
    assert [float(first[name]) for name in ("accuracy", "params", "flops", "milliseconds")] == [
        0.875,
        0.5875,
        0.525,
        0.75,
    ]
    assert os.listdir(tmp_path) == ["curve.csv"]


def test_impossible_arguments_are_refused():
    records = random_records(0)
    two_exits = ExitCosts([1, 2], [1.0, 2.0], [1.0, 2.0], 1, 1.0, 1.0, 1, "cpu")
    for function in (sweep, fixed_points):
        with pytest.raises(ValueError, match="with 3 exits, got 2"):
            function(records, two_exits)
    with pytest.raises(ValueError, match="`thresholds`"):
        sweep(records, COSTS, [-0.1])
    with pytest.raises(ValueError, match="`points`"):
        table([])
    with pytest.raises(ValueError, match="`points`"):
        write_csv([], "nowhere.csv")
