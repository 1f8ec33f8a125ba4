# SPDX-License-Identifier: Apache-2.0
"""Aims, met and missed, from made-up measurements."""

import pytest

from hf_sidenet.benchmark import BenchmarkResult
from hf_sidenet.benchmark.methods import COMPILED, OURS, PER_BATCH, RIVAL, RUNNER, WHOLE_BATCH

from ...benchmark.cases import result, size, stage_result


@pytest.fixture
def aims_of(script):
    """The aims of made-up sizes."""
    return lambda sizes: script("aims").aims_of(found(sizes))


def found(sizes):
    return BenchmarkResult(sizes, {"max_accuracy_drop": 0.01}, {}, {})


def runner(**kwargs):
    return result(RUNNER, OURS, **{"twin": result().name, "ratio": 1.7, "speed": 170.0, **kwargs})


def only(aims, start):
    (found,) = [aim for aim in aims if aim.text.startswith(start)]
    return found


@pytest.mark.parametrize(
    ("batch_size", "efficiency", "met"),
    [(1, 0.95, True), (1, 0.94, False), (8, 0.98, True), (32, 0.97, False), (128, 1.2, True)],
)
def test_efficiency_of_the_runner(aims_of, batch_size, efficiency, met):
    aims = aims_of([size(batch_size, runner(efficiency=efficiency))])
    aim = only(aims, "runner: ")
    assert aim.met == met
    assert aim.text == f"runner: ≥ {0.95 if batch_size == 1 else 0.98:.2f} of the ideal at batch size {batch_size}"
    assert aim.found == f"{efficiency:.2f} (float32, eager, by length)"


def test_every_variant_has_to_reach_it(aims_of):
    methods = [runner(efficiency=1.0), runner(efficiency=0.9, engine=COMPILED)]
    aim = only(aims_of([size(8, *methods)]), "runner: ")
    assert not aim.met
    assert aim.found == "1.00 (float32, eager, by length), 0.90 (float32, compiled, by length)"


def test_per_batch_is_held_to_it_at_128_only(aims_of):
    method = result(PER_BATCH, OURS, efficiency=0.96)
    assert only(aims_of([size(128, method)]), "per batch: ≥ 0.95").met
    assert not [aim for aim in aims_of([size(8, method)]) if aim.text.startswith("per batch")]


def test_the_router_is_compared_in_its_own_variant(aims_of):
    router = result(WHOLE_BATCH, RIVAL, 100)
    half = {"precision": "bfloat16"}
    sizes = [size(32, router, runner(speed=140), result(WHOLE_BATCH, RIVAL, 200, **half), runner(speed=250, **half))]
    aim = only(aims_of(sizes), "ours: ≥ 1.3× the whole-batch router at batch size 32")
    assert not aim.met
    assert aim.found.startswith("1.40 (runner, float32, eager, by length), 1.25 (runner, bfloat16")
    assert not [aim for aim in aims_of([size(8, router, runner())]) if "router" in aim.text]


def test_multiples_of_the_best_of_ours(aims_of):
    sizes = [
        size(8, result(speed=100), runner(speed=150, ratio=1.5)),
        size(32, result(speed=100), runner(speed=499, ratio=1.6, precision="bfloat16")),
        # Too inaccurate to count.
        size(128, result(speed=100), runner(speed=900, ratio=9.0, accuracy=0.5)),
    ]
    aims = aims_of(sizes)
    twin = only(aims, "the best of ours: ≥ 1.6× its twin, ")
    assert (twin.met, twin.found) == (True, "1.60 (runner, bfloat16, eager, by length, batch size 32)")
    eager = only(aims, "the best of ours: ≥ 6.0× plain float32 eager")
    assert (eager.met, eager.found) == (False, "4.99 (runner, bfloat16, eager, by length, batch size 32)")
    beyond = only(aims, "the best of ours: ≥ 2.4× the fastest plain MainNet in any precision, engine and batch size")
    assert (beyond.met, beyond.found) == (True, "4.99 (runner, bfloat16, eager, by length, batch size 32)")
    faster = [size(8, result(speed=100), runner(speed=230, ratio=2.3)), size(32, result(speed=300))]
    assert not only(aims_of(faster), "the best of ours: ≥ 2.4× the fastest").met
    assert not [aim for aim in aims if "in int8" in aim.text]
    int8 = [size(8, result(speed=100), runner(speed=230, ratio=2.0, precision="int8"))]
    assert only(aims_of(int8), "the best of ours: ≥ 2.0× its twin in int8").met
    # Against its best batch size, not the same.
    better = [size(8, result(speed=100), runner(speed=700)), size(32, result(speed=200))]
    assert only(aims_of(better), "the best of ours: ≥ 6.0× plain float32 eager").found.startswith("3.50 (")
    # In another order it is no comparison.
    mixed = [size(8, result(speed=1, bucketed=False), runner(speed=150))]
    assert not [aim for aim in aims_of(mixed) if "plain float32 eager" in aim.text]


def test_the_run_checks_itself(aims_of):
    good = size(8, result(), stages=[stage_result(0.97), stage_result(1.15)])
    aim = only(aims_of([good]), "this run can be trusted")
    assert (aim.met, aim.found) == (True, "0.97 to 1.15")
    # Three stages are two more calls, which weigh with one row: up to 1.2 there.
    assert only(aims_of([size(1, result(), stages=[stage_result(1.2)])]), "this run can be trusted").met
    assert not only(aims_of([size(1, result(), stages=[stage_result(1.21)])]), "this run can be trusted").met
    assert not only(aims_of([size(2, result(), stages=[stage_result(1.2)])]), "this run can be trusted").met
    bad = size(32, result(), stages=[stage_result(1.3, "bfloat16"), stage_result(None)])
    aim = only(aims_of([good, bad]), "this run can be trusted")
    assert (aim.met, aim.found) == (False, "1.30 (bfloat16, eager, by length, batch size 32)")


def test_float32_has_to_give_the_same_answers(aims_of):
    same = runner(other_labels=0, other_exits=0)
    other = runner(other_labels=1, other_exits=2, engine=COMPILED)
    rounded = runner(other_labels=5, other_exits=9, precision="bfloat16")
    assert only(aims_of([size(8, same, rounded)]), "ours in float32").met
    aim = only(aims_of([size(8, same, other)]), "ours in float32")
    assert (aim.met, aim.found) == (False, "3 (runner, float32, compiled, by length, batch size 8)")


def test_nothing_measured_nothing_said(aims_of):
    assert aims_of([size(8, result())]) == []


def test_text(script):
    text = script("aims").aims_text(found([size(8, runner(efficiency=0.9, ratio=1.7))]))
    assert text.splitlines()[:3] == [
        "Aims:",
        "",
        "- MISSED: runner: ≥ 0.98 of the ideal at batch size 8: 0.90 (float32, eager, by length)",
    ]
    assert "- met: the best of ours: ≥ 1.6× its twin, at the same batch size and order: 1.70 (" in text
    assert script("aims").aims_text(found([size(8, result())])) == ""
