# SPDX-License-Identifier: Apache-2.0
"""SideNets that learn from the MainNet's answers: frozen or not, with or without labels, logits recorded or not."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_sidenet import collect

from ..models import tiny
from ..models.naive import blocks_of


def rows(count=32, labels=True, logits=None):
    inputs = tiny.texts(count)["input_ids"]
    made = [{"input_ids": row, "labels": row[0] % 3} for row in inputs]
    if not labels:
        for row in made:
            del row["labels"]
    if logits is not None:
        for row, values in zip(made, logits, strict=True):
            row["mainnet_logits"] = values
    return made


def train(model, data, tmp_path):
    args = TrainingArguments(
        tmp_path, per_device_train_batch_size=8, num_train_epochs=10, learning_rate=0.1, optim="sgd",
        report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, seed=0, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=data)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def distilled(**kwargs):
    torch.manual_seed(0)
    fields = {"distillation_weight": 1.0, "distillation_temperature": 2.0, **kwargs}
    model = tiny.bert_with_sidenets(**fields)
    # A teacher with something to say.
    model.mainnet.classifier.weight.data.mul_(20)
    return model


def recorded(model, data):
    return collect(model, DataLoader(data, 8, collate_fn=default_data_collator), progress=False).mainnet_logits


def blocks_run(model):
    calls = []
    for i, block in enumerate(blocks_of(model)):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    return calls


def exit_logits_of(model, data):
    with torch.no_grad():
        return model.eval()(input_ids=torch.stack([row["input_ids"] for row in data])).exit_logits


def divergence(model, data):
    """KL of both SideNets to the MainNet."""
    *sidenets, mainnet = exit_logits_of(model, data).log_softmax(-1).unbind(1)
    return sum((mainnet.exp() * (mainnet - sidenet)).sum().item() for sidenet in sidenets)


@pytest.mark.parametrize("mode", ["all", "body", "none"])
def test_sidenets_learn_the_mainnets_answers_without_labels(mode, tmp_path):
    model, data = distilled(freeze_mainnet=mode), rows(labels=False)
    before = copy.deepcopy(model.mainnet.state_dict())
    first = divergence(model, data)
    train(model, data, tmp_path)
    assert divergence(model, data) < 0.5 * first
    if mode != "none":
        # The teacher is detached, and there are no labels for its last layer.
        assert all(torch.equal(value, before[name]) for name, value in model.mainnet.state_dict().items())


@pytest.mark.medium
def test_recorded_logits_give_the_same_losses_and_spare_the_tail(tmp_path):
    live = distilled(exit_layers=(1, 2))
    # With labels the losses would differ by the frozen MainNet's own, a constant that only a run to the end has.
    data, with_logits = rows(labels=False), rows(labels=False, logits=recorded(live, rows()))
    cached = copy.deepcopy(live)
    ran_live, ran_cached = blocks_run(live), blocks_run(cached)
    losses = [train(model, rows, tmp_path) for model, rows in ((live, data), (cached, with_logits))]
    assert set(ran_live) == {0, 1, 2, 3}
    assert set(ran_cached) == {0, 1}
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

    torch.testing.assert_close(exit_logits_of(cached, data), exit_logits_of(live, data), rtol=1e-4, atol=1e-4)


def test_recorded_logits_teach_where_the_mainnet_learns_too():
    model = distilled(freeze_mainnet="none").train()
    inputs = tiny.texts(4)
    teacher = torch.randn(4, 3)
    output = model(**inputs, labels=torch.tensor([0, 1, 2, 0]), mainnet_logits=teacher)
    columns = output.exit_logits.unbind(1)
    expected = 0.0
    # The MainNet too, which stays near the classifier that the logits are from.
    for column in columns:
        student = (column / 2).log_softmax(-1)
        expected = expected + 4 * torch.nn.functional.kl_div(student, (teacher / 2).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(output.loss, expected)


def test_evaluation_with_recorded_logits_has_the_loss_of_training():
    model = distilled()
    inputs, labels, teacher = tiny.texts(4), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    with torch.no_grad():
        full = model(**inputs, labels=labels)
        output = model(**inputs, labels=labels, mainnet_logits=full.logits)
        other = model(**inputs, labels=labels, mainnet_logits=teacher)
    assert torch.equal(output.loss, full.loss)
    assert not torch.equal(other.loss, full.loss)
    assert torch.equal(other.logits, full.logits)


@pytest.mark.parametrize(
    ("logits", "weight", "message"),
    [
        (torch.zeros(4, 2), 1.0, r"`mainnet_logits` must be floating-point with shape \(4, 3\), got .*\(4, 2\)"),
        (torch.zeros(4, 3, dtype=torch.long), 1.0, "got torch.int64"),
        (torch.zeros(4, 3), 0.0, "`mainnet_logits` must be None without distillation"),
    ],
)
def test_impossible_recorded_logits(logits, weight, message):
    model = distilled(distillation_weight=weight)
    with pytest.raises(ValueError, match=message):
        model.train()(**tiny.texts(4), labels=torch.tensor([0, 1, 2, 0]), mainnet_logits=logits)
