# SPDX-License-Identifier: Apache-2.0
"""The fastest routing is measured once per checkpoint, machine and settings."""

import json
import math

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import Stages, race, remembered
from hf_sidenet.io.cache import default_cache
from tests.models.tiny import bert_with_sidenets

from .flood import token_rows


TIMES = {"pooled": 3.0, "per_batch": 2.0, "all_blocks": 4.0, "gates": 5.0}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = [0.6, 0.6]
    return model


@pytest.fixture
def measured(monkeypatch):
    """Times that do not depend on the machine."""
    monkeypatch.setattr("hf_sidenet.inference.runner.measure_routings", lambda *_: dict(TIMES))


def files():
    return sorted((default_cache() / "routings").glob("*"))


def runner_that_measured(model, **kwargs):
    runner = SideNetRunner(model, batch_size=8, **kwargs)
    runner.measure(token_rows(4, 9))
    return runner


def test_a_race_that_is_over_is_remembered(model):
    runner = SideNetRunner(model, batch_size=8)
    list(runner.predict(token_rows(700, 9)))
    assert len(files()) == 1
    again = SideNetRunner(model, batch_size=8)
    assert again.times == runner.times
    assert again.chosen == runner.chosen
    # Nothing more to find out.
    list(again.predict(token_rows(100, 9)))
    assert again.times == runner.times


def test_a_race_that_is_not_over_is_not(model, monkeypatch):
    monkeypatch.setattr(race, "MARGINS", (math.inf, 0.0))
    runner = SideNetRunner(model, batch_size=8)
    list(runner.predict(token_rows(80, 9)))
    assert len(runner.times) == 4
    assert files() == []


def test_a_race_at_another_threshold_is_not(model):
    runner = SideNetRunner(model, batch_size=8)
    list(runner.predict(token_rows(700, 9), thresholds=0.1))
    assert len(runner.times) == 4
    assert files() == []
    # The runner's own, given explicitly.
    list(SideNetRunner(model, batch_size=8).predict(token_rows(700, 9), thresholds=0.6))
    assert len(files()) == 1


def test_the_same_checkpoint_elsewhere(model, measured, tmp_path):
    runner_that_measured(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert SideNetRunner(again, batch_size=8).times == TIMES
    assert SideNetRunner(again, batch_size=8).chosen == "per_batch"


def test_measuring_again_replaces_it(model, measured, monkeypatch):
    runner_that_measured(model)
    other = dict.fromkeys(TIMES, 9.0)
    monkeypatch.setattr("hf_sidenet.inference.runner.measure_routings", lambda *_: dict(other))
    runner_that_measured(model)
    assert SideNetRunner(model, batch_size=8).times == other
    assert len(files()) == 1


def test_anything_else_is_measured_anew(model, measured, monkeypatch):
    runner_that_measured(model)
    assert SideNetRunner(model, batch_size=8).times == TIMES
    for arguments in (
        {"batch_size": 9},
        {"pool_size": 5},
        {"dtype": torch.bfloat16},
        {"thresholds": 0.7},
        {"compile": {"backend": "eager"}},
    ):
        assert SideNetRunner(model, **{"batch_size": 8, **arguments}).times == {}, arguments
    assert SideNetRunner(Stages(model), batch_size=8).times == {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert SideNetRunner(model, batch_size=8).times == {}


def test_another_processor(model, measured, monkeypatch):
    runner_that_measured(model)
    monkeypatch.setattr(remembered, "cpu_name", lambda: "another")
    assert SideNetRunner(model, batch_size=8).times == {}


def test_another_version_of_torch(model, measured, monkeypatch):
    runner_that_measured(model)
    monkeypatch.setattr(remembered, "versions", lambda: {"torch": "0.1"})
    assert SideNetRunner(model, batch_size=8).times == {}


@pytest.mark.parametrize("part", ["sidenets", "config"])
def test_another_checkpoint(model, measured, part):
    runner_that_measured(model)
    if part == "config":
        model.config.temperatures = [1.5, 1.0, 1.0]
    else:
        next(model.sidenets.parameters()).data += 1
    assert SideNetRunner(model, batch_size=8).times == {}


def test_a_routing_that_is_given_reads_and_writes_nothing(model, measured, monkeypatch):
    runner_that_measured(model, routing="gates")
    assert files() == []
    monkeypatch.setattr("hf_sidenet.inference.runner.recall", None)
    assert SideNetRunner(model, batch_size=8, routing="gates").chosen == "gates"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "version": 0}),
        lambda text: json.dumps({**json.loads(text), "setting": {}}),
        lambda text: json.dumps({**json.loads(text), "times": {}}),
        lambda text: json.dumps({**json.loads(text), "times": [1.0]}),
        lambda text: json.dumps({**json.loads(text), "times": {"pooled": "fast"}}),
        lambda text: json.dumps({**json.loads(text), "times": {"pooled": -1.0}}),
        lambda text: json.dumps({**json.loads(text), "times": {"by_magic": 1.0}}),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(model, measured, change):
    runner_that_measured(model)
    (path,) = files()
    path.write_text(change(path.read_text()))
    assert SideNetRunner(model, batch_size=8).times == {}
    runner_that_measured(model)
    assert SideNetRunner(model, batch_size=8).times == TIMES
    assert files() == [path]


def test_a_cache_that_cannot_be_written_is_no_error(model, measured):
    default_cache().parent.mkdir(parents=True, exist_ok=True)
    default_cache().write_text("a file, not a folder")
    assert runner_that_measured(model).chosen == "per_batch"
    assert SideNetRunner(model, batch_size=8).times == {}
