# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_sidenet.training import parameter_groups, trainer_optimizer

from ..models import tiny


RATES = {"learning_rate": 1e-3, "sidenet_learning_rate": 1e-2}


def names(model, group):
    known = {parameter: name for name, parameter in model.named_parameters()}
    return {known[parameter] for parameter in group["params"]}


@pytest.mark.parametrize("mode", ["none", "body", "all"])
def test_every_parameter_that_learns_is_in_one_group(mode):
    model = tiny.bert_with_sidenets(freeze_mainnet=mode)
    groups = parameter_groups(model, **RATES, weight_decay=0.1)
    found = [parameter for group in groups for parameter in group["params"]]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in found} == {id(parameter) for parameter in learning}
    assert len(found) == len(learning)
    assert len(groups) == (2 if mode == "all" else 4)
    for group in groups:
        assert len({name.startswith("sidenets.") for name in names(model, group)}) == 1
        assert len({name.endswith((".bias", "norm.weight", "LayerNorm.weight")) for name in names(model, group)}) == 1


def test_rates_and_decay_by_name():
    model = tiny.bert_with_sidenets(freeze_mainnet="body")
    settings = {
        name: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, **RATES, weight_decay=0.1)
        for name in names(model, group)
    }
    assert settings["mainnet.classifier.weight"] == (1e-3, 0.1)
    assert settings["mainnet.classifier.bias"] == (1e-3, 0.0)
    for i in range(2):
        assert settings[f"sidenets.{i}.dense.weight"] == (1e-2, 0.1)
        assert settings[f"sidenets.{i}.norm.weight"] == (1e-2, 0.0)
        assert settings[f"sidenets.{i}.out_proj.bias"] == (1e-2, 0.0)


def test_the_head_that_the_mainnet_gets_is_no_sidenet():
    model = tiny.bert_with_sidenets(freeze_mainnet="body", mainnet_head="mlp")
    rates = {group["lr"] for group in parameter_groups(model, **RATES) if "mainnet" in str(names(model, group))}
    assert rates == {1e-3}


@pytest.mark.parametrize("name", ["learning_rate", "sidenet_learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_impossible_values_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be [>≥] 0, got {value}"):
        parameter_groups(tiny.bert_with_sidenets(), **{**RATES, name: value})


def test_nothing_that_learns_is_refused():
    with pytest.raises(ValueError, match="`model` must have trainable parameters"):
        parameter_groups(tiny.bert_with_sidenets().requires_grad_(False), **RATES)


def trainer(model, folder, sidenet_learning_rate, **kwargs):
    args = TrainingArguments(
        folder, learning_rate=1e-3, num_train_epochs=1, per_device_train_batch_size=8, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", **kwargs,
    )  # fmt: skip
    rows = [{"input_ids": ids, "labels": ids[0] % 3} for ids in tiny.texts(16)["input_ids"]]
    optimizer = trainer_optimizer(model, args, sidenet_learning_rate)
    return Trainer(model, args, train_dataset=rows, optimizer_cls_and_kwargs=optimizer)


def test_the_trainer_uses_both_rates(tmp_path):
    model = tiny.bert_with_sidenets(freeze_mainnet="none")
    # SGD moves by rate × gradient, so the rate can be read from the weights.
    run = trainer(model, tmp_path, 1e-2, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant", max_steps=1)
    watched = [model.mainnet.classifier.weight, model.sidenets[0].out_proj.weight, model.sidenets[1].dense.weight]
    before = [parameter.detach().clone() for parameter in watched]
    gradients = [[] for _ in watched]
    for parameter, seen in zip(watched, gradients, strict=True):
        parameter.register_hook(lambda gradient, seen=seen: seen.append(gradient.clone()))
    run.train()
    for parameter, old, (gradient,), rate in zip(watched, before, gradients, (1e-3, 1e-2, 1e-2), strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(old - parameter.detach(), rate * gradient, rtol=1e-2, atol=1e-7)


def test_optimizer_and_scheduler_of_the_arguments(tmp_path):
    model = tiny.bert_with_sidenets(freeze_mainnet="none")
    run = trainer(model, tmp_path, 1e-2, adam_beta1=0.5, weight_decay=0.1, lr_scheduler_type="linear")
    run.create_optimizer_and_scheduler(num_training_steps=4)
    assert type(run.optimizer) is torch.optim.AdamW
    assert {group["betas"][0] for group in run.optimizer.param_groups} == {0.5}
    seen = {(group["lr"], group["weight_decay"]) for group in run.optimizer.param_groups}
    assert seen == {(1e-3, 0.1), (1e-3, 0.0), (1e-2, 0.1), (1e-2, 0.0)}
    run.optimizer.step()
    run.lr_scheduler.step()
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.75e-3, 0.75e-2}


def test_one_rate_is_left_to_the_trainer(tmp_path):
    model = tiny.bert_with_sidenets(freeze_mainnet="none")
    assert trainer_optimizer(model, TrainingArguments(tmp_path), None) is None
    run = trainer(model, tmp_path, None)
    run.create_optimizer()
    assert {group["lr"] for group in run.optimizer.param_groups} == {1e-3}


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharded_parameters_are_refused(name, tmp_path):
    args = TrainingArguments(tmp_path)
    # As after parsing: the real values need several processes.
    setattr(args, name, "full_shard")
    with pytest.raises(ValueError, match=r"`sidenet_learning_rate` must be None with FSDP or DeepSpeed, .* got 0\.01"):
        trainer_optimizer(tiny.bert_with_sidenets(), args, 0.01)
    assert trainer_optimizer(tiny.bert_with_sidenets(), args, None) is None
