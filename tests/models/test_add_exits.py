# SPDX-License-Identifier: Apache-2.0
"""`add_exits` initializes the new SideNets, and nothing that somebody put into the model meanwhile."""

import copy

import pytest
import torch
from torch import nn

from hf_sidenet import SideNetForSequenceClassification

from . import tiny


def trained(module):
    """The same kind of module with other weights, as it comes from somewhere else."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(0.5)
    return module


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, features):
        return self.out(self.norm(features)) * self.scale


def replace(model, name, module):
    model.set_submodule(name, trained(module))
    return model


CHANGES = {
    "head": lambda model: replace(model, "mainnet.classifier", nn.Linear(32, 3)),
    "another head": lambda model: replace(model, "mainnet.classifier", Head()),
    "embeddings": lambda model: replace(model, "mainnet.bert.embeddings.word_embeddings", nn.Embedding(99, 32)),
    "block": lambda model: replace(model, "mainnet.bert.encoder.layer.3.output.dense", nn.Linear(37, 32)),
    "SideNet": lambda model: replace(model, "sidenets.0", copy.deepcopy(model.sidenets[0])),
    "layer of a SideNet": lambda model: replace(model, "sidenets.0.out_proj", nn.Linear(32, 3)),
    "SyncBatchNorm": lambda model: trained(nn.SyncBatchNorm.convert_sync_batchnorm(model)),
    "weights": lambda model: trained(model),
    "more tokens": lambda model: model.resize_token_embeddings(120) and model,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("source", ["attached", "loaded"])
def test_what_was_there_keeps_its_values(change, source, tmp_path):
    model = tiny.bert_with_sidenets(exit_layers=(1,))
    if source == "loaded":
        model.save_pretrained(tmp_path)
        model = SideNetForSequenceClassification.from_pretrained(tmp_path).eval()
    model = CHANGES[change](model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.add_exits([2])
    after = model.state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    new = model.sidenets[1]
    assert 0.01 < new.dense.weight.std() < 0.03
    assert not new.dense.bias.any()
    assert torch.equal(new.norm.running_var, torch.ones(32))
    assert model(**tiny.texts(4)).exit_logits.isfinite().all()


def test_what_learns_stays_as_it_is():
    model = tiny.bert_with_sidenets(exit_layers=(1,), freeze_mainnet="none")
    model.mainnet.bert.embeddings.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.add_exits([2, 3])
    after = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: after[name] for name in before} == before
    assert all(parameter.requires_grad for parameter in model.sidenets.parameters())


def set_modes(model, kind, mode):
    for module in model.modules():
        if isinstance(module, kind):
            module.train(mode)


@pytest.mark.parametrize("training", [True, False])
def test_training_modes_stay_as_they_are(training):
    """Dropout that samples in evaluation, BatchNorm that is fixed in training."""
    model = tiny.bert_with_sidenets(exit_layers=(1,), freeze_mainnet="none").train(training)
    set_modes(model, nn.Dropout, not training)
    set_modes(model, nn.BatchNorm1d, not training)
    before = {name: module.training for name, module in model.named_modules()}
    model.add_exits([2])
    after = {name: module.training for name, module in model.named_modules()}
    assert {name: after[name] for name in before} == before
    assert all(module.training == training for module in model.sidenets[1].modules())


def test_the_list_of_sidenets_stays_the_same_object():
    """With the hooks and notes that somebody put on it and on what is in it."""
    model = tiny.bert_with_sidenets(exit_layers=(2,))
    sidenets, first, calls = model.sidenets, model.sidenets[0], []
    first.register_forward_hook(lambda *args: calls.append(args))
    model.add_exits([3, 1])
    assert model.sidenets is sidenets
    assert [sidenet is first for sidenet in model.sidenets] == [False, True, False]
    model(**tiny.texts(4), thresholds=1.0)
    assert len(calls) == 1


@pytest.mark.parametrize("exit_layers", [["a"], [1.5], [True], [-1], [99], 2, None, {"2": 3}, [[2]], [2, 2], [1]])
def test_impossible_places_change_nothing(exit_layers):
    model = tiny.bert_with_sidenets(exit_layers=(1,), thresholds=0.5, calibration={"test": "paired"})
    config, names = model.config.to_dict(), list(model.state_dict())
    with pytest.raises(ValueError, match="`exit_layers` must"):
        model.add_exits(exit_layers)
    assert (model.config.to_dict(), list(model.state_dict())) == (config, names)


def test_sidenets_that_build_on_each_other_are_not_torn_apart():
    model = tiny.bert_with_sidenets(exit_layers=(1, 3), chain=[[0.5], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"`exit_layers` cannot be added to .* Set `config.chain = None` first"):
        model.add_exits([2])
    model.config.chain = [[0.0], [0.0, 0.0]]
    model.add_exits([2])
    assert model.config.chain is None
