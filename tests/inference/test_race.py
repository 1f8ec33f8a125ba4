# SPDX-License-Identifier: Apache-2.0
"""Routings that take turns on real rows: every row is answered once, and the fastest is found."""

import copy
import logging
import math
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import Stages
from hf_sidenet.inference import race as race_module
from hf_sidenet.inference.race import FIRST_ROWS, MARGINS, Race, RacingEngine
from hf_sidenet.inference.rows import Prediction
from tests.models.tiny import bert_with_sidenets, resnet_with_sidenet

from .flood import assert_answers, one_by_one, text_row, token_rows


THETA = (0.6, 0.6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = list(THETA)
    return model


class Clock:
    """Time that passes only when an engine says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(race_module.time, "perf_counter", lambda: self.now)


class Slow:
    """An engine that takes `seconds` per token, and fails on some rows. With `pool`, rows wait for a full batch."""

    def __init__(self, name, clock, seconds, seen, fails=lambda row: False, pool=1):
        self.name, self.clock, self.seconds, self.seen, self.fails, self.pool = name, clock, seconds, seen, fails, pool
        self.rows = []

    waiting = property(lambda self: len(self.rows))
    since = math.inf

    def put(self, rows):
        self.rows += rows
        return self.flush() if len(self.rows) >= self.pool else []

    def flush(self, before=math.inf):
        rows, self.rows = self.rows, []
        self.clock.now += self.seconds * sum(row.length for row in rows)
        self.seen.append((self.name, len(rows)))
        return [
            Prediction(row.place, error=ValueError(f"no kernel for {row.place}"))
            if self.fails(row)
            else Prediction(row.place, self.name)
            for row in rows
        ]


class Raced:
    """A race of slow engines, with what it told."""

    def __init__(self, monkeypatch, seconds, fails=None, pools=None):
        clock, fails, pools = Clock(monkeypatch), fails or {}, pools or {}
        self.seen, self.told = [], []
        self.makers = {
            name: lambda name=name, each=each: Slow(
                name, clock, each, self.seen, fails.get(name, lambda row: False), pools.get(name, 1)
            )
            for name, each in seconds.items()
        }
        self.race = Race(list(seconds), lambda race, times: self.told.append(times))
        self.stages = Stages(bert_with_sidenets())

    def engine(self):
        return RacingEngine(self.makers, self.race, self.stages)

    def answered(self, count, batch_size, length=lambda place: 10):
        engine, done = self.engine(), []
        for i in range(0, count, batch_size):
            done += engine.put([text_row(place, length(place)) for place in range(i, min(count, i + batch_size))])
        return done + engine.flush()


@pytest.mark.parametrize("batch_size", [1, 8, 32, 100])
@pytest.mark.parametrize("best", ["a", "b", "c"])
def test_the_fastest_wins_and_every_row_is_answered_once(monkeypatch, batch_size, best):
    raced = Raced(monkeypatch, {name: 1.0 if name == best else 1.3 for name in "abc"}, pools={"b": 50})
    done = raced.answered(2000, batch_size)
    assert sorted(each.place for each in done) == list(range(2000))
    assert raced.race.is_over
    assert raced.race.best == best
    times = raced.told[-1]
    assert min(times, key=times.get) == best
    # Per row, like the clock; those of others are relative to it.
    assert times[best] == pytest.approx(1e4, rel=0.01)
    assert {round(times[name] / times[best], 2) for name in "abc" if name != best} == {1.3}
    # The rest goes through the winner.
    assert all(each.label == best for each in done[1000:])


def test_much_slower_routings_drop_out_first(monkeypatch):
    raced = Raced(monkeypatch, {"a": 1.0, "b": 1.05, "c": 1.2, "d": 3.0})
    raced.answered(4000, 8)
    rows = Counter()
    for name, count in raced.seen:
        rows[name] += count
    assert rows["d"] == FIRST_ROWS
    assert rows["c"] == 3 * FIRST_ROWS
    assert rows["b"] == FIRST_ROWS * (2 ** len(MARGINS) - 1)
    assert [sorted(times) for times in raced.told] == [list("abcd")] * len(MARGINS)


@pytest.mark.parametrize("longer", [1, -1])
def test_longer_rows_are_not_held_against_a_routing(monkeypatch, longer):
    raced = Raced(monkeypatch, {"a": 1.02, "b": 1.0, "c": 1.02})
    raced.answered(1500, 8, lambda place: 800 + longer * place // 2)
    assert raced.race.best == "b"


def test_rows_that_wait_are_charged_to_the_routing_that_lets_them_wait(monkeypatch):
    raced = Raced(monkeypatch, {"a": 2.0, "b": 1.0}, pools={"a": 10_000})
    raced.answered(600, 8)
    assert raced.race.best == "b"


def test_it_goes_on_in_the_next_stream(monkeypatch):
    raced = Raced(monkeypatch, {"a": 2.0, "b": 1.0})
    for _ in range(3):
        raced.answered(16, 8)
    assert raced.race.best == "b"
    assert len(raced.told) == 1


def test_a_routing_that_fails_is_left_out_and_another_one_answers(monkeypatch, caplog):
    fails = {"a": lambda row: row.place % 64 >= 32, "b": lambda row: True}
    raced = Raced(monkeypatch, {"a": 0.5, "b": 0.1, "c": 1.0}, fails)
    with caplog.at_level(logging.WARNING):
        done = raced.answered(300, 8)
    assert [each.error for each in done] == [None] * 300
    assert sorted(each.place for each in done) == list(range(300))
    assert raced.race.names == ["c"]
    assert "Routing 'b' is left out, because 8 of " in caplog.text
    assert re.search("Routing 'a' is left out, because 8 of .* rows fail: no kernel for [3-6]", caplog.text)


def test_a_row_on_which_all_fail_leaves_none_out(monkeypatch, caplog):
    raced = Raced(monkeypatch, {"a": 1.0, "b": 2.0}, dict.fromkeys("ab", lambda row: row.place == 9))
    done = {each.place: each for each in raced.answered(100, 8)}
    assert len(done) == 100
    assert [place for place, each in done.items() if each.error] == [9]
    assert raced.race.best == "a"
    assert "left out" not in caplog.text


def test_a_round_in_which_graphs_were_compiled_does_not_count(monkeypatch):
    raced = Raced(monkeypatch, {"a": 1.0, "b": 2.0})
    raced.stages.num_forms = 0
    engine = raced.engine()

    def put(count):
        for place in range(0, count, 8):
            engine.put([text_row(place + i, 10) for i in range(8)])

    # The first turn does not count anyway.
    put(8 + 8)
    raced.stages.num_forms = 5
    put(24)
    assert raced.told == []
    put(32)
    assert len(raced.told) == 1


@pytest.mark.parametrize("batch_size", [1, 8, 32, 200])
def test_a_runner_that_races_gives_the_answers_of_the_model(model, batch_size):
    raw = token_rows(700, 30, bad_every=90)
    runner = SideNetRunner(model, batch_size=batch_size)
    predictions = list(runner.predict(raw))
    assert_answers(predictions, one_by_one(model, raw, THETA))
    assert [prediction.place for prediction in predictions] == list(range(700))
    # Also where the first window is not full.
    assert set(runner.times) == {"pooled", "per_batch", "gates", "all_blocks"}
    assert runner.chosen == min(runner.times, key=runner.times.get)


def test_streams_that_share_a_race(model):
    raw = token_rows(600, 20)
    runner = SideNetRunner(model, batch_size=8)
    streams = [runner.predict(raw), runner.predict(raw), runner.predict(raw)]
    found = [[], [], []]
    # The second is asked more often; the third begins when the others are done.
    for i, count in ((0, 250), (1, 400), (0, 350), (1, 200), (2, 600)):
        found[i] += islice(streams[i], count)
    expected = one_by_one(model, raw, THETA)
    for answers in found:
        assert_answers(answers, expected)


def test_threads_that_share_a_race(model):
    raw = token_rows(300, 20)
    runner = SideNetRunner(model, batch_size=8)
    expected = one_by_one(model, raw, THETA)
    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(lambda _: list(runner.predict(raw)), range(4)):
            assert_answers(answers, expected)


def test_a_round_ends_when_every_stream_has_finished_its_turn():
    """Else a routing whose turn is still running would have taken no time, and win."""
    told = []
    race = Race(["a", "b"], lambda race, times: told.append(times))
    assert race.next(64, 0) is None
    assert [race.next(64, 0), race.next(64, 0)] == ["a", "b"]
    race.add("a", 1.0, 64, 64)
    race.end_round(0)
    assert (told, race.next(64, 0)) == ([], None)
    race.add("b", 5.0, 64, 64)
    race.end_round(0)
    assert race.is_over
    assert (race.best, len(told)) == ("a", 1)


def test_the_race_begins_anew_with_other_weights(model, monkeypatch):
    monkeypatch.setattr(race_module, "MARGINS", (math.inf, 0.0))
    runner = SideNetRunner(model, batch_size=8)
    list(runner.predict(token_rows(100, 9)))
    assert len(runner.times) == 4
    runner.update(copy.deepcopy(model))
    assert runner.times == {}
    list(runner.predict(token_rows(700, 9)))
    times = dict(runner.times)
    runner.update(model)
    assert runner.times == times


def test_images_race_too():
    torch.manual_seed(0)
    model = resnet_with_sidenet()
    images = torch.randn(200, 3, 32, 32)
    runner = SideNetRunner(model, batch_size=8, thresholds=0.5)
    found = list(runner.predict([{"pixel_values": image} for image in images]))
    with torch.no_grad():
        expected = model(images, thresholds=0.5)
    assert [each.exit_index for each in found] == expected.exit_index.tolist()
    torch.testing.assert_close(torch.stack([each.logits for each in found]), expected.logits, rtol=1e-4, atol=1e-4)
    assert len(runner.times) == 4
