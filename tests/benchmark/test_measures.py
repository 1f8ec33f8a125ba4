# SPDX-License-Identifier: Apache-2.0
"""From clocks to numbers, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.benchmark.interleave import MethodClock, StageClock
from hf_sidenet.benchmark.measures import ideal_seconds, percentile, summarize, with_best_ratios
from hf_sidenet.benchmark.methods import OURS
from hf_sidenet.inference.rows import Prediction

from .cases import Echo, echo_method, result, rows_of, size


CPU = torch.device("cpu")
BATCHES = [rows_of([3] * 5)[:2], rows_of([3] * 5)[2:]]
LABELS = [0, 1, 1, 0, 1]


def stages():
    return None


def clock_of(method, rounds, answers, latencies=(0.1,)):
    clock = MethodClock(method, BATCHES, Echo(), CPU)
    clock.rounds, clock.latencies = rounds, list(latencies)
    clock.answers = {
        place: Prediction(place, label_id=label, exit_index=exit_index)
        for place, (label, exit_index) in enumerate(answers)
    }
    return clock


def stage_clock_of(method, rounds):
    clock = StageClock.__new__(StageClock)
    clock.method, clock.batches, clock.rounds = method, BATCHES, rounds
    return clock


PLAIN = echo_method("plain")
MINE = echo_method("mine", OURS, stages=stages, thresholds=(0.5,), note="a remark")


@pytest.fixture
def found():
    plain = clock_of(PLAIN, [[1.0, 3.0, 0.0], [2.0, 2.0, 0.0], [1.5, 9.0, 0.0]], [(1, 0)] * 5)
    answers = [(0, 0), (1, 0), (1, 1), (0, 0), (0, 1)]
    mine = clock_of(MINE, [[0.5, 1.0, 0.5]] * 3, answers, latencies=[0.001 * i for i in range(1, 101)])
    # Stage 0 takes 0.2 and 0.5 s on the two batches, stage 1 takes 1 and 1.2 s.
    alone = stage_clock_of(MINE, [[[0.2, 1.0], [0.5, 1.2]], [[0.1, 0.9], [0.4, 1.0]], [[9.0, 9.0], [9.0, 9.0]]])
    expected = {
        PLAIN.name: (torch.tensor([1, 1, 1, 1, 0]), torch.full((5,), -1)),
        MINE.name: (torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 1])),
    }
    return summarize(8, [plain, mine], [alone], LABELS, expected, {MINE.name: 321.0})


def test_times_are_sums_of_medians(found):
    plain, mine = found.methods
    assert (found.batch_size, found.num_rows) == (8, 5)
    # Medians 1.5 and 3: not from a single round.
    assert plain.seconds == 4.5
    assert plain.rows_per_second == pytest.approx(5 / 4.5)
    assert plain.milliseconds == pytest.approx(900)
    # Rounds of 4, 4 and 10.5 s.
    assert plain.spread == pytest.approx(6.5 / 4)
    assert mine.seconds == 2.0
    assert mine.spread == 0


def test_latency_accuracy_and_shares(found):
    plain, mine = found.methods
    assert mine.latency_ms == pytest.approx([50, 95, 99])
    assert plain.accuracy == 3 / 5
    assert mine.accuracy == 4 / 5
    assert plain.shares == [1.0]
    assert mine.shares == [3 / 5, 2 / 5]


def test_the_ideal_counts_who_was_there(found):
    plain, mine = found.methods
    # Batch 0: no row continues; batch 1: two of three do.
    ideal = 0.2 + 0.5 + 2 / 3 * 1.2
    assert mine.ideal_milliseconds == pytest.approx(1e3 * ideal / 5)
    assert mine.efficiency == pytest.approx(ideal / 2)
    assert plain.ideal_milliseconds is None
    (chain,) = found.stages
    assert chain.milliseconds == pytest.approx([140, 440])
    assert chain.sum_ratio == pytest.approx(2.9 / 4.5)


def test_the_twin_and_the_answers_that_were_due(found):
    plain, mine = found.methods
    assert (mine.twin, mine.ratio) == (PLAIN.name, 4.5 / 2)
    assert (plain.twin, plain.ratio) == (None, None)
    # Any exit is right for a plain one; mine gives another class once and exits elsewhere twice.
    assert (plain.other_labels, plain.other_exits) == (1, 0)
    assert (mine.other_labels, mine.other_exits) == (1, 2)
    assert (plain.memory_mb, mine.memory_mb) == (None, 321.0)
    assert mine.notes == ["a remark"]


def test_stages_of_another_order_make_no_ideal():
    other = echo_method("mine", OURS, bucketed=True, stages=stages)
    clocks = [clock_of(MINE, [[1.0, 1.0, 0.0]], [(1, 0)] * 5)]
    found = summarize(8, clocks, [stage_clock_of(other, [[[0.2], [0.5]]])], LABELS, {}, {})
    assert found.methods[0].efficiency is None
    assert found.stages[0].sum_ratio is None
    assert found.methods[0].other_labels is None


def test_best_ratio_is_against_the_twins_best_batch_size():
    twin = result().name
    sizes = [
        size(1, result(speed=50), result("ours", OURS, speed=80, twin=twin, ratio=1.6)),
        size(8, result(speed=200), result("ours", OURS, speed=300, twin=twin, ratio=1.5)),
        size(32, result(speed=100), result("ours", OURS, speed=220, twin=twin, ratio=2.2)),
    ]
    found = with_best_ratios(sizes)
    assert [each.methods[1].best_ratio for each in found] == pytest.approx([0.4, 1.5, 1.1])
    assert [each.methods[0].best_ratio for each in found] == [None] * 3


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentile(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= math.ceil(percent * len(values) / 100)
    smaller = [value for value in values if value < found]
    assert len(smaller) < percent * len(values) / 100


@given(st.data(), st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_ideal_of_alike_batches_is_rows_t0_plus_survivors_tk(data, num_stages, counts):
    """If every row costs the same, the simple formula holds."""
    rows = rows_of([3] * sum(counts))
    batches, start = [], 0
    for count in counts:
        batches.append(rows[start : start + count])
        start += count
    times = data.draw(st.lists(st.floats(0, 10), min_size=num_stages, max_size=num_stages))
    exits = data.draw(st.lists(st.integers(0, num_stages - 1), min_size=len(rows), max_size=len(rows)))
    found = ideal_seconds([[t * len(batch) for t in times] for batch in batches], batches, dict(enumerate(exits)))
    expected = sum(t * sum(e >= k for e in exits) for k, t in enumerate(times))
    assert found == pytest.approx(expected)
