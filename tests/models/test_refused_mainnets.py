# SPDX-License-Identifier: Apache-2.0
"""What cannot take a SideNet is refused when it is attached, with the reason."""

import pytest
import torch
import transformers
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification

from . import tiny


# Model type: (fields of the config, part of the error).
TEXTS = {
    "big_bird": ({**tiny.TEXT, "block_size": 4}, "changes itself on some inputs"),
}
IMAGES = {
    "imagegpt": (
        {"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 99, "n_positions": 64},
        r"fails on example rows, pixel_values \(3, 3, 64, 64\) \(You have to specify either input_ids",
    ),
    "pp_lcnet": ({"scale": 0.25, "num_labels": 3}, "logits of shape .* returns None"),
}


def refuse(wrapper, mainnet, message, **kwargs):
    with pytest.raises(ValueError, match=message):
        wrapper.from_mainnet(mainnet, exit_layers=[1], **kwargs)


def build(model_type, fields, auto_class):
    config = transformers.CONFIG_MAPPING[model_type](**fields)
    config.num_labels = 3
    return auto_class.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("model_type", TEXTS)
def test_text(model_type):
    fields, message = TEXTS[model_type]
    refuse(SideNetForSequenceClassification, build(model_type, fields, AutoModelForSequenceClassification), message)


def test_a_mainnet_that_changed_itself_before():
    mainnet = build("big_bird", TEXTS["big_bird"][0], AutoModelForSequenceClassification)
    mainnet(torch.randint(3, 99, (1, 8)))
    message = "no longer what its config says: `bert.attention_type` is 'original_full', no longer 'block_sparse'"
    refuse(SideNetForSequenceClassification, mainnet, message)


@pytest.mark.parametrize("model_type", IMAGES)
def test_images(model_type):
    fields, message = IMAGES[model_type]
    mainnet = build(model_type, fields, AutoModelForImageClassification)
    refuse(SideNetForImageClassification, mainnet, message, input_size=[3, 64, 64])


@pytest.mark.parametrize(
    "kind", ["ForTokenClassification", "ForMaskedLM", "Model", "ForMultipleChoice", "ForNextSentencePrediction"]
)
def test_other_tasks(kind):
    mainnet = getattr(transformers, f"Bert{kind}")(tiny.bert(num_labels=2).config)
    message = f"a MainNet must be a classifier .* is BertForSequenceClassification; got {type(mainnet).__name__}"
    refuse(SideNetForSequenceClassification, mainnet, message)


def test_a_class_that_a_checkpoint_does_not_name():
    class Louder(transformers.BertForSequenceClassification):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 2 * output.logits
            return output

    message = "a MainNet must be a classifier .* is BertForSequenceClassification; got Louder"
    refuse(SideNetForSequenceClassification, Louder(tiny.bert().config), message)


@pytest.mark.parametrize(
    "fields",
    [{"problem_type": "regression"}, {"num_labels": 1}, {"problem_type": "multi_label_classification"}],
)
def test_other_problems(fields):
    refuse(SideNetForSequenceClassification, tiny.bert(**fields), "Regression and multi-label MainNets")


REMOTE = """
from transformers import BertConfig, BertForSequenceClassification


class RemoteConfig(BertConfig):
    model_type = "{model_type}"


class RemoteForSequenceClassification(BertForSequenceClassification):
    config_class = RemoteConfig
"""


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_remote_code(model_type, tmp_path):
    mainnet = tiny.bert()
    mainnet.config.auto_map = {
        "AutoConfig": "modeling_remote.RemoteConfig",
        "AutoModelForSequenceClassification": "modeling_remote.RemoteForSequenceClassification",
    }
    mainnet.save_pretrained(tmp_path)
    (tmp_path / "modeling_remote.py").write_text(REMOTE.format(model_type=model_type))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', f'"model_type": "{model_type}"'))
    attach = SideNetForSequenceClassification.from_mainnet
    if model_type == "bert":
        # transformers has classes of that type, and takes them instead.
        assert type(attach(str(tmp_path), exit_layers=[1], trust_remote_code=False).mainnet) is type(mainnet)
    else:
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            attach(str(tmp_path), exit_layers=[1], trust_remote_code=False)
    model = attach(str(tmp_path), exit_layers=[1], trust_remote_code=True)
    assert type(model.mainnet).__name__ == "RemoteForSequenceClassification"
    model.save_pretrained(tmp_path / "out")
    loaded = SideNetForSequenceClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(loaded.mainnet.config).__name__ == "RemoteConfig"
