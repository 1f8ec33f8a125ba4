# SPDX-License-Identifier: Apache-2.0
"""Batches in, answers out: who leaves, who waits, and what happens to a batch that cannot run."""

import copy
import math

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from hf_sidenet.inference import Stages
from hf_sidenet.inference.engine import PoolingEngine
from hf_sidenet.inference.routings import WholeEngine, by_all_stages, by_gates
from hf_sidenet.inference.rows import Row
from hf_sidenet.models import SideNetForSequenceClassification
from tests.models.naive import spread_out
from tests.models.tiny import bert_with_sidenets, resnet_with_sidenet

from .flood import assert_answers, one_by_one, token_rows


THETA = (0.6, 0.6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return bert_with_sidenets()


def to_rows(raw, thresholds=THETA):
    rows = []
    for place, row in enumerate(raw):
        ids = torch.tensor(row["input_ids"])
        rows.append(Row(place, {"attention_mask": torch.ones_like(ids), "input_ids": ids}, len(ids), thresholds))
    return rows


@torch.inference_mode()
def answered(engine, rows, batch_size):
    done = []
    for i in range(0, len(rows), batch_size):
        done += engine.put(rows[i : i + batch_size])
    done += engine.flush()
    assert engine.waiting == 0
    return sorted(done, key=lambda prediction: prediction.place)


@pytest.mark.parametrize("num_in_flight", [0, 1, 3])
@pytest.mark.parametrize("pool_size", [1, 7, 1000])
def test_same_answers_however_long_rows_wait(model, pool_size, num_in_flight):
    raw = token_rows(60, 30)
    engine = PoolingEngine(Stages(model), pool_size=pool_size, num_in_flight=num_in_flight)
    predictions = answered(engine, to_rows(raw), 8)
    assert_answers(predictions, one_by_one(model, raw, THETA))
    assert len({prediction.exit_index for prediction in predictions}) == 3


@pytest.mark.parametrize("pool_size", [1, 7, 1000])
def test_same_answers_where_exits_build_on_each_other(model, pool_size):
    raw, model = token_rows(60, 30), copy.deepcopy(model)
    unchained = one_by_one(model, raw, THETA)
    model.config.chain = [[0.6], [0.8, -0.5]]
    stages, expected = Stages(model), one_by_one(model, raw, THETA)
    assert any((a - b).abs().max() > 0.1 for (_, a), (_, b) in zip(expected, unchained, strict=True))
    assert_answers(answered(PoolingEngine(stages, pool_size=pool_size), to_rows(raw), 8), expected)
    assert_answers(answered(WholeEngine(stages, by_all_stages(stages)), to_rows(raw), 8), expected)


@pytest.mark.parametrize("answer", [by_all_stages, by_gates])
def test_same_answers_in_one_go(model, answer):
    raw = token_rows(40, 30)
    stages = Stages(model)
    engine = WholeEngine(stages, answer(model if answer is by_gates else stages))
    assert_answers(answered(engine, to_rows(raw), 8), one_by_one(model, raw, THETA))


def test_rows_wait_until_the_pool_is_full_and_no_longer(model):
    stages, calls = Stages(model), []
    for k, stage in enumerate(stages.modules):
        stage.register_forward_hook(lambda *_, k=k: calls.append(k))
    engine = PoolingEngine(stages, pool_size=2)
    rows = to_rows(token_rows(12, 5), (1.0, 1.0))
    with torch.inference_mode():
        assert engine.put(rows[:5]) == []
        assert calls == [0]
        assert engine.waiting == 5
        assert engine.since < math.inf
        done = engine.put(rows[5:8])
    # Eight waited, four batches full, of which two are as good a batch: the whole rest ran at once.
    assert calls == [0, 0, *[1] * 2, *[2] * 2]
    assert sorted(prediction.place for prediction in done) == list(range(8))
    assert engine.since == math.inf


def test_flush_runs_only_what_has_waited(model):
    engine = PoolingEngine(Stages(model), pool_size=100)
    with torch.inference_mode():
        engine.put(to_rows(token_rows(4, 5), (1.0, 1.0)))
        assert engine.flush(before=engine.since - 1) == []
        # Those that go on begin to wait anew.
        assert engine.flush(before=engine.since) == []
        assert engine.waiting == 4
        assert len(engine.flush()) == 4


def test_each_row_has_its_own_theta(model):
    raw = token_rows(24, 12)
    thetas = [((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))[i % 3] for i in range(24)]
    rows = to_rows(raw)
    for row, theta in zip(rows, thetas, strict=True):
        row.thresholds = theta
    predictions = answered(PoolingEngine(Stages(model), pool_size=5), rows, 4)
    assert [prediction.exit_index for prediction in predictions] == [0, 1, 2] * 8
    assert_answers(predictions, one_by_one(model, raw, thetas))


@pytest.mark.parametrize("place", [0, 5, 9])
def test_a_row_that_breaks_its_batch_stands_alone_with_its_error(model, place):
    raw = token_rows(10, 9)
    rows = to_rows(raw)
    rows[place].inputs["input_ids"][0] = 10_000
    for engine in (
        PoolingEngine(Stages(model), pool_size=4),
        WholeEngine(Stages(model), by_gates(model)),
    ):
        predictions = answered(engine, rows, 10)
        assert "IndexError" in str(predictions[place].error)
        assert f"row {place} failed" in str(predictions[place].error)
        expected = one_by_one(model, raw, THETA)
        expected[place] = None
        assert_answers(predictions, expected)


def test_a_failure_in_a_later_stage_is_halved_too(model):
    class Broken:
        def __init__(self, stages):
            self.stages = stages

        def __getattr__(self, name):
            return getattr(self.stages, name)

        def __len__(self):
            return len(self.stages)

        def __call__(self, index, hidden, inputs):
            if index == 1 and len(hidden) > 2:
                raise RuntimeError("not enough memory")
            return self.stages(index, hidden, inputs)

    raw = token_rows(12, 9)
    predictions = answered(PoolingEngine(Broken(Stages(model)), pool_size=9), to_rows(raw, (1.0, 1.0)), 4)
    assert_answers(predictions, one_by_one(model, raw, (1.0, 1.0)))


def test_a_head_that_looks_for_padding_finds_it_where_batches_meet():
    # GPT-2 reads the last token that is not the padding id, here not 0.
    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=2, n_positions=64, num_labels=3, pad_token_id=98)
    torch.manual_seed(1)
    gpt2 = GPT2ForSequenceClassification(config).eval()
    model = SideNetForSequenceClassification.from_mainnet(gpt2, exit_layers=[1])
    raw = [row for row in token_rows(40, 20) if 98 not in row["input_ids"]]
    spread_out(model, {"input_ids": torch.randint(3, 98, (16, 9))})
    rows = to_rows(raw, (1.0,))
    predictions = answered(PoolingEngine(Stages(model), pool_size=11), rows, 4)
    assert_answers(predictions, one_by_one(model, raw, (1.0,)))


def test_images_of_different_sizes_do_not_meet():
    torch.manual_seed(0)
    model = resnet_with_sidenet((1, 2))
    rows = []
    for place in range(24):
        size = (32, 48)[place % 2]
        rows.append(Row(place, {"pixel_values": torch.randn(3, size, size)}, 0, (0.5, 0.5)))
    predictions = answered(PoolingEngine(Stages(model), pool_size=5), rows, 8)
    for row, prediction in zip(rows, predictions, strict=True):
        with torch.no_grad():
            output = model(row.inputs["pixel_values"][None], thresholds=0.5)
        assert prediction.exit_index == output.exit_index.item()
        torch.testing.assert_close(prediction.logits, output.logits[0], rtol=0, atol=1e-5 * 42)
