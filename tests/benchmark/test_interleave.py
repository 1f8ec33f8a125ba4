# SPDX-License-Identifier: Apache-2.0
"""Interleaving and clocks: which method gets which batch when, and what counts."""

import gc
from types import SimpleNamespace

import pytest
import torch

from hf_sidenet.benchmark import interleave as module
from hf_sidenet.benchmark.interleave import MethodClock, StageClock, interleave
from hf_sidenet.benchmark.methods import OURS
from hf_sidenet.inference.rows import Prediction

from .cases import Echo, echo_method, rows_of


CPU = torch.device("cpu")
BATCHES = [rows_of([3] * 7)[i : i + 3] for i in (0, 3, 6)]


def clock_of(answerer, name="echo"):
    return MethodClock(echo_method(name, answerer=answerer), BATCHES, answerer, CPU)


@pytest.mark.medium
@pytest.mark.parametrize("repeats", [1, 3])
def test_everybody_gets_a_batch_before_anybody_gets_the_next(repeats):
    log = []
    clocks = [clock_of(Echo(name, log), name) for name in "abcd"]
    interleave(clocks, len(BATCHES), repeats=repeats, progress=False)
    expected = [("put", [0, 1, 2]), ("put", [3, 4, 5]), ("put", [6]), ("flush", [])] * (repeats + 1)
    turns = [log[i : i + 4] for i in range(0, len(log), 4)]
    assert len(turns) == len(expected)
    for turn, (what, places) in zip(turns, expected, strict=True):
        assert sorted(name for name, _, _ in turn) == list("abcd")
        assert all((did, got) == (what, places) for _, did, got in turn)
    # Not always in the same order.
    assert len({tuple(name for name, _, _ in turn) for turn in turns}) > 1
    for clock in clocks:
        assert [len(seconds) for seconds in clock.rounds] == [4] * repeats
        assert len(clock.latencies) == 7 * repeats
        assert sorted(clock.answers) == list(range(7))


@pytest.mark.medium
def test_the_order_of_turns_follows_the_seed():
    orders = []
    for seed in (0, 0, 1):
        log = []
        interleave([clock_of(Echo(name, log), name) for name in "abcd"], 3, repeats=1, seed=seed, progress=False)
        orders.append([name for name, _, _ in log])
    assert orders[0] == orders[1] != orders[2]


class FakeTime:
    """A clock that advances only with work."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Slow(Echo):
    """Takes a given number of seconds per call, and much more in the warm-up."""

    def __init__(self, time, seconds, waits=False):
        super().__init__(waits=waits)
        self.time, self.seconds = time, seconds
        self.calls = 0

    def put(self, rows):
        self._work()
        return super().put(rows)

    def flush(self):
        self._work()
        return super().flush()

    def _work(self):
        self.calls += 1
        self.time.now += self.seconds if self.calls > 4 else 1000.0


@pytest.fixture
def fake_time(monkeypatch):
    time = FakeTime()
    monkeypatch.setattr(module, "time", time)
    return time


@pytest.mark.medium
def test_each_method_is_on_its_own_clock(fake_time):
    """One method takes 1 s per call, the other 10 s without affecting the first; odd rows wait for the flush."""
    quick, slow = clock_of(Slow(fake_time, 1.0, waits=True)), clock_of(Slow(fake_time, 10.0))
    interleave([quick, slow], 3, repeats=2, progress=False)
    assert quick.rounds == [[1.0] * 4] * 2
    assert slow.rounds == [[10.0] * 4] * 2
    # Rows 0, 2, 4, 6 after the call that brought them; row 1 after all four calls, 3 and 5 after the last three.
    assert sorted(quick.latencies) == sorted([1.0] * 8 + [4.0] * 2 + [3.0] * 4)
    assert slow.latencies == [10.0] * 14


def test_rows_are_prepared_off_the_clock(fake_time):
    def rows(batch):
        fake_time.now += 50
        return batch

    clock = clock_of(Slow(fake_time, 1.0))
    clock.method = SimpleNamespace(name="echo", rows=rows)
    interleave([clock], 3, repeats=1, progress=False)
    assert clock.rounds == [[1.0] * 4]


class Stages:
    """Stage k takes k + 1 seconds per row."""

    config = SimpleNamespace(mainnet_config=SimpleNamespace(pad_token_id=0))

    def __init__(self, time):
        self.time = time
        self.seen = []

    def __len__(self):
        return 2

    def __call__(self, index, hidden, inputs):
        ids = inputs["input_ids"]
        assert (hidden is None) == (index == 0)
        self.seen.append((index, tuple(ids.shape)))
        self.time.now += (index + 1) * len(ids)
        return torch.zeros(len(ids), 1), torch.zeros(len(ids), 2)


@pytest.mark.medium
def test_stages_alone_run_for_all_rows(fake_time):
    stages = Stages(fake_time)
    method = echo_method("ours", OURS, stages=lambda: stages)
    batches = [rows_of([4, 2]), rows_of([3])]
    clock = StageClock(method, batches, CPU)
    interleave([clock], 2, repeats=2, progress=False)
    assert clock.rounds == [[[2.0, 4.0], [1.0, 2.0]]] * 2
    assert stages.seen == [(0, (2, 4)), (1, (2, 4)), (0, (1, 3)), (1, (1, 3))] * 3


class Silent(Echo):
    def put(self, rows):
        return super().put(rows)[1:]


class Broken(Echo):
    def answer(self, row):
        return Prediction(row.place, error=ValueError(f"row {row.place} is odd"))


def test_a_method_that_leaves_rows_unanswered_is_not_timed():
    with pytest.raises(RuntimeError, match=r"silent, float32, eager, mixed has no answer for 3 of 7 rows"):
        interleave([clock_of(Silent(), "silent")], 3, repeats=1, progress=False)
    with pytest.raises(RuntimeError, match="row 0 is odd") as caught:
        interleave([clock_of(Broken())], 3, repeats=1, progress=False)
    assert isinstance(caught.value.__cause__, ValueError)
    assert gc.isenabled()


def test_no_garbage_is_collected_on_the_clock():
    seen = []

    class Watching(Echo):
        def put(self, rows):
            seen.append((gc.isenabled(), torch.is_inference_mode_enabled()))
            return super().put(rows)

    interleave([clock_of(Watching())], 3, repeats=1, progress=False)
    assert seen == [(False, True)] * 6
    assert gc.isenabled()
