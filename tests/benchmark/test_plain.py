# SPDX-License-Identifier: Apache-2.0
"""The MainNet without SideNets: same answers, same weights, no gates."""

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.models.modalities import IMAGE, TEXT
from tests.models.tiny import bert_with_sidenets, images, resnet_with_sidenet, texts


@pytest.mark.parametrize(("make", "inputs"), [(bert_with_sidenets, texts()), (resnet_with_sidenet, images())])
@torch.no_grad()
def test_plain_mainnet(make, inputs):
    model = make()
    plain = plain_mainnet(model)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in plain.modules())
    assert any(module._forward_pre_hooks for module in model.mainnet.modules())
    assert torch.equal(plain(**inputs).logits, model(**inputs, thresholds=1.0).logits)
    own, theirs = dict(plain.named_parameters()), dict(model.mainnet.named_parameters())
    assert list(own) == list(theirs)
    assert all(own[name] is theirs[name] for name in own)
    # In the model, rows still exit early.
    assert model(**inputs, thresholds=0.0).exit_index.eq(0).all()


@torch.no_grad()
def test_a_chain_of_one_stage():
    model = bert_with_sidenets()
    chain = PlainChain(plain_mainnet(model))
    assert (len(chain), chain.modality is TEXT, chain.max_length, chain.dtype) == (1, True, 512, torch.float32)
    assert chain.config.id2label == model.config.id2label
    hidden, logits = chain(0, None, texts())
    assert hidden is None
    assert torch.equal(logits, model(**texts(), thresholds=1.0).logits)


@torch.no_grad()
def test_inputs_that_a_classifier_does_not_take_are_left_out():
    config = DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=37, vocab_size=99)
    model = DistilBertForSequenceClassification(config).eval()
    chain = PlainChain(model)
    assert "token_type_ids" not in chain.input_names
    seen = []
    model.register_forward_pre_hook(lambda _, __, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    inputs = {**texts(), "token_type_ids": torch.zeros_like(texts()["input_ids"])}
    assert torch.equal(chain(0, None, inputs)[1], model(**texts()).logits)
    assert "input_ids" in seen[0]
    assert "token_type_ids" not in seen[0]
    assert PlainChain(resnet_with_sidenet().mainnet).modality is IMAGE
