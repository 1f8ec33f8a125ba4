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
