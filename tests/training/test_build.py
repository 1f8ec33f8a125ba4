# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from transformers import BertForSequenceClassification, ResNetForImageClassification

from hf_sidenet import SideNetForImageClassification, SideNetForSequenceClassification
from hf_sidenet.training import MainNetArguments, SideNetArguments, build_model, load_config

from ..models import tiny


NAMES = ["bad", "good", "mixed"]
SMALL = json.dumps({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"})


def build(kind=SideNetForSequenceClassification, names=NAMES, sidenet=None, input_size=None, **mainnet):
    arguments = MainNetArguments(**mainnet)
    sidenets = SideNetArguments(**(sidenet or {}))
    return build_model(kind, load_config(arguments), names, arguments, sidenets, input_size=input_size)


@pytest.fixture
def mainnet(tmp_path):
    model = tiny.bert()
    model.save_pretrained(tmp_path / "mainnet")
    return model, str(tmp_path / "mainnet")


def same_weights(model, other):
    expected = other.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_mainnet_gets_sidenets(mainnet):
    plain, path = mainnet
    model = build(sidenet={"exit_layers": [1, 3], "pooling": ["cls"], "alpha": [0.5, 2.0]}, model_name_or_path=path)
    assert type(model) is SideNetForSequenceClassification
    assert (model.config.exit_layers, model.config.alpha, model.config.pooling) == ([1, 3], [0.5, 2], ["cls", "cls"])
    assert model.config.id2label == model.mainnet.config.id2label == {0: "bad", 1: "good", 2: "mixed"}
    assert model.config.label2id == {"bad": 0, "good": 1, "mixed": 2}
    assert model.config.name_or_path == path
    assert same_weights(plain, model.mainnet)


def test_without_exit_layers_the_mainnet_alone(mainnet):
    plain, path = mainnet
    model = build(model_name_or_path=path)
    assert type(model) is BertForSequenceClassification
    assert model.config.id2label == {0: "bad", 1: "good", 2: "mixed"}
    assert same_weights(plain, model)


def test_flattened_images_have_the_size_that_they_come_in():
    sidenet = {"exit_layers": [1], "pooling": ["flatten"], "freeze_mainnet": "none"}
    new = {"model_type": "resnet", "config_overrides": SMALL}
    model = build(SideNetForImageClassification, sidenet=sidenet, input_size=[3, 32, 32], **new).eval()
    assert model.sidenets[0].dense.in_features == 8 * 8 * 8
    assert model(pixel_values=torch.randn(2, 3, 32, 32)).exit_logits.shape == (2, 2, 3)


def test_config_overrides(mainnet):
    _, path = mainnet
    for sidenet in ({}, {"exit_layers": [1]}):
        model = build(model_name_or_path=path, config_overrides='{"num_hidden_layers": 2}', sidenet=sidenet)
        assert sum(name.endswith("attention") for name, _ in model.named_modules()) == 2


def test_another_number_of_classes_needs_a_new_head(mainnet):
    plain, path = mainnet
    joint = {"exit_layers": [1], "freeze_mainnet": "none"}
    for sidenet in ({}, joint):
        with pytest.raises(RuntimeError, match="mismatched"):
            build(names=NAMES[:2], sidenet=sidenet, model_name_or_path=path)
        model = build(names=NAMES[:2], sidenet=sidenet, model_name_or_path=path, ignore_mismatched_sizes=True)
        assert model.config.num_labels == 2
        body = getattr(model, "mainnet", model)
        assert body.classifier.out_features == 2
        assert same_weights(plain.bert, body.bert)
    with pytest.raises(ValueError, match="a frozen MainNet would never train them"):
        build(names=NAMES[:2], sidenet={"exit_layers": [1]}, model_name_or_path=path, ignore_mismatched_sizes=True)


def test_random_weights():
    model = build(SideNetForImageClassification, model_type="resnet", config_overrides=SMALL)
    assert type(model) is ResNetForImageClassification
    assert model.config.num_labels == 3
    sidenet = {"exit_layers": [1], "freeze_mainnet": "none"}
    model = build(SideNetForImageClassification, sidenet=sidenet, model_type="resnet", config_overrides=SMALL)
    assert type(model) is SideNetForImageClassification
    assert model.mainnet.config.hidden_sizes == [8, 16]
    assert model.config.id2label == {0: "bad", 1: "good", 2: "mixed"}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("freeze", ["all", "body"])
def test_random_weights_must_learn(freeze):
    sidenet = {"exit_layers": [1], "freeze_mainnet": freeze}
    with pytest.raises(ValueError, match=f"`freeze_mainnet` must be 'none', got '{freeze}'"):
        build(SideNetForImageClassification, sidenet=sidenet, model_type="resnet", config_overrides=SMALL)


@pytest.fixture
def checkpoint(tmp_path):
    model = tiny.bert_with_sidenets(thresholds=[0.5, 0.75])
    model.save_pretrained(tmp_path / "checkpoint")
    return model, str(tmp_path / "checkpoint")


def test_a_checkpoint_with_sidenets_is_loaded_as_it_is(checkpoint):
    saved, path = checkpoint
    model = build(names=["LABEL_0", "LABEL_1", "LABEL_2"], model_name_or_path=path)
    assert type(model) is type(saved)
    assert model.config.thresholds == [0.5, 0.75]
    assert same_weights(saved, model)


def test_config_overrides_change_a_checkpoint(checkpoint):
    _, path = checkpoint
    model = build(model_name_or_path=path, config_overrides='{"freeze_mainnet": "none", "alpha": [1.0, 0.5]}')
    assert model.config.alpha == [1.0, 0.5]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("sidenet", "names"),
    [
        ({"exit_layers": [1, 3]}, "`exit_layers`"),
        ({"exit_layers": [2], "alpha": [0.5]}, "`exit_layers`, `alpha`"),
        ({"freeze_mainnet": "none"}, "`freeze_mainnet`"),
    ],
)
def test_a_checkpoints_sidenets_are_not_described_again(sidenet, names, checkpoint):
    _, path = checkpoint
    with pytest.raises(ValueError, match=f"^{names} must not be given for '{path}', which already has SideNets"):
        build(sidenet=sidenet, model_name_or_path=path)


@pytest.mark.parametrize("given", [{}, {"model_name_or_path": "a", "model_type": "bert"}])
def test_one_of_name_and_type(given):
    with pytest.raises(ValueError, match="pass one of `model_name_or_path` and `model_type`, got "):
        build(**given)


def test_unknown_overrides_are_refused(mainnet, checkpoint):
    unknown = json.dumps({"num_hiden_layers": 2, "num_labels": 3})
    for source in ({"model_type": "bert"}, {"model_name_or_path": mainnet[1]}):
        with pytest.raises(ValueError, match=r"fields of a bert config, got \['num_hiden_layers'\]"):
            build(config_overrides=unknown, **source)
    with pytest.raises(ValueError, match=r"fields of a sidenet config, got \['num_hiden_layers'\]"):
        build(config_overrides=unknown, model_name_or_path=checkpoint[1])
