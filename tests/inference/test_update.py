# SPDX-License-Identifier: Apache-2.0
"""What a runner took from a model holds until `update`, and then every row is answered by the one or the other."""

import asyncio
import threading

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import Stages
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.single_stage import SingleStage
from tests.models.tiny import bert, bert_with_sidenets, resnet_with_sidenet, tokenizer

from .flood import assert_answers, one_by_one, token_rows


THETA = (0.6, 0.6)


@pytest.fixture
def model():
    return serving_model(0)


def serving_model(seed):
    torch.manual_seed(seed)
    model = bert_with_sidenets()
    model.config.thresholds = list(THETA)
    return model


def change(config):
    """Everything that an answer depends on."""
    config.thresholds, config.temperatures = [0.5, 0.7], [3.0, 0.3, 2.0]
    config.id2label = {index: f"new {index}" for index in range(3)}
    config.mainnet_config.pad_token_id = 7


@pytest.mark.parametrize("routing", ["pooled", "per_batch", "gates", "all_blocks"])
def test_the_config_of_then(model, routing):
    rows = token_rows(60, 9)
    expected = one_by_one(model, rows, THETA)
    runner = SideNetRunner(model, batch_size=8, routing=routing)
    change(model.config)
    predictions = list(runner.predict(rows))
    assert_answers(predictions, expected)
    assert {each.label for each in predictions} <= {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert runner.thresholds == THETA


def test_a_chain_that_was_given(model):
    rows = token_rows(30, 9)
    expected = one_by_one(model, rows, THETA)
    stages = Stages(model)
    runner, reader = SideNetRunner(stages, batch_size=8, routing="pooled"), RowReader(stages)
    first = SingleStage(stages, 0, reader=reader)
    # `recalibrate(stages=...)` does that.
    change(stages.config)
    assert_answers(list(runner.predict(rows)), expected)
    assert reader.thresholds(None) == THETA
    answered = {each.place: each for each in first.begin([(rows, THETA)])[0].answered}
    assert sorted(answered) == [place for place, (exit_index, _) in enumerate(expected) if exit_index == 0]
    assert {each.label for each in answered.values()} <= {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_a_stream_goes_over_between_two_windows(model):
    other = serving_model(1)
    rows = token_rows(300, 6)
    expected = [one_by_one(each, rows, THETA) for each in (model, other)]
    runner = SideNetRunner(model, batch_size=2, routing="pooled")
    stream = runner.predict(iter(rows))
    predictions = [next(stream) for _ in range(20)]
    runner.update(other)
    predictions += stream
    by = [which(each, [answers[each.place] for answers in expected]) for each in predictions]
    # Those that were read ahead, two windows of 64, are answered by what they were read for.
    assert by == sorted(by)
    assert 64 <= by.index(1) <= 128


def which(prediction, answers):
    """Whose answer it is, as a whole."""
    (found,) = [
        number
        for number, (exit_index, logits) in enumerate(answers)
        if prediction.exit_index == exit_index and torch.allclose(prediction.logits, logits, atol=1e-4)
    ]
    return found


@pytest.mark.medium
def test_callers_while_it_is_updated(model):
    models = [model, serving_model(1)]
    rows = token_rows(400, 6)
    expected = [one_by_one(each, rows, THETA) for each in models]
    done = threading.Event()

    def keep_updating(runner):
        while not done.is_set():
            for each in reversed(models):
                runner.update(each)

    async def submitted(runner):
        found = []
        for start in range(0, len(rows), 40):
            found += await asyncio.gather(*(runner.submit(row) for row in rows[start : start + 40]))
        return found

    with SideNetRunner(model, batch_size=4, max_wait_ms=1, routing="pooled") as runner:
        updating = threading.Thread(target=keep_updating, args=(runner,))
        updating.start()
        try:
            predictions = asyncio.run(submitted(runner))
        finally:
            done.set()
            updating.join()
    by = {which(each, [answers[i] for answers in expected]) for i, each in enumerate(predictions)}
    assert by == {0, 1}


def test_theta_is_the_new_models_unless_it_is_given(model):
    runner = SideNetRunner(model, thresholds=1.0)
    runner.update(model)
    assert runner.thresholds == THETA
    runner.update(model, thresholds=0.5)
    assert runner.thresholds == (0.5, 0.5)


def other_classes():
    model = bert_with_sidenets()
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    return model


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: bert_with_sidenets((1, 2)), r"`exit_layers` is \[1, 2\], not \[1, 3\]"),
        (
            lambda: bert_with_sidenets(chain=[[0.5], [0.0, 0.0]]),
            r"`chain` is \[\[0.5\], \[0.0, 0.0\]\], not \[\[0.0\], \[0.0, 0.0\]\]",
        ),
        (lambda: bert_with_sidenets(pooling="cls"), "`pooling` is "),
        (other_classes, r"the list of its classes is \['a', 'b', 'c'\]"),
        (lambda: bert_with_sidenets(sidenet_hidden_size=8), "the shape of `sidenets.0"),
        (lambda: type(bert_with_sidenets()).from_mainnet(bert(vocab_size=98), exit_layers=[1, 3]), "`vocab_size` of "),
        (resnet_with_sidenet, "the type of its MainNet is resnet, not bert"),
        (lambda: Stages(bert_with_sidenets()), "the list of its routings is .*, not .* 'gates'"),
        (lambda: bert_with_sidenets().to(torch.bfloat16), "its precision is bfloat16, not float32"),
    ],
)
def test_another_architecture_is_refused(model, other, what):
    rows = token_rows(5, 5)
    runner = SideNetRunner(model)
    with pytest.raises(ValueError, match=f"`model` must differ from the current one only in .*, but {what}"):
        runner.update(other())
    assert_answers(list(runner.predict(rows)), one_by_one(model, rows, THETA))


def test_it_reads_as_before():
    model = serving_model(0)
    runner = SideNetRunner(model, tokenizer(), max_length=3, thresholds=0.0)
    runner.update(model, thresholds=0.0)
    assert runner.reader.max_length == 3
    (prediction,) = runner.predict(["a very good film"])
    assert prediction.label is not None


def test_parts_in_training_mode_are_refused(model):
    model.mainnet.bert.embeddings.dropout.train()
    with pytest.raises(ValueError, match=r"got its Dropout 'mainnet\.bert\.embeddings\.dropout' in training mode"):
        SideNetRunner(model)
    model.eval()
    runner = SideNetRunner(model, batch_size=2, routing="gates")
    stream = runner.predict(iter(token_rows(200, 5)))
    next(stream)
    model.train()
    with pytest.raises(ValueError, match="got all of it in training mode"):
        list(stream)
