# SPDX-License-Identifier: Apache-2.0
"""A field that the MainNet reads is one field, whichever config it is set on."""

import copy
import json
import pickle

import pytest
import torch
from transformers import (
    AutoConfig,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from hf_sidenet import SideNetConfig, SideNetForSequenceClassification

from . import tiny


SMALL = {"vocab_size": 99, "num_labels": 3}
DECODERS = {
    "gpt2": lambda **kwargs: GPT2ForSequenceClassification(
        GPT2Config(n_embd=32, n_layer=4, n_head=2, bos_token_id=1, eos_token_id=2, **SMALL, **kwargs)
    ),
    "llama": lambda **kwargs: LlamaForSequenceClassification(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            **SMALL,
            **kwargs,
        )
    ),
}


def attached(decoder, **kwargs):
    torch.manual_seed(0)
    return SideNetForSequenceClassification.from_mainnet(DECODERS[decoder](**kwargs), exit_layers=[1, 3])


def padded(rows, pad):
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def assert_rows_do_not_depend_on_padding(model, pad):
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    with torch.no_grad():
        together = model(**padded(rows, pad), thresholds=1.0).exit_logits
        alone = torch.cat([model(**padded([row], pad), thresholds=1.0).exit_logits for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_padding_token_set_at_loading_reaches_the_mainnet(decoder, tmp_path):
    attached(decoder, pad_token_id=98).save_pretrained(tmp_path)
    model = SideNetForSequenceClassification.from_pretrained(tmp_path, pad_token_id=3).eval()
    assert (model.config.pad_token_id, model.mainnet.config.pad_token_id) == (3, 3)
    assert_rows_do_not_depend_on_padding(model, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_padding_token_set_on_the_config_reaches_the_mainnet(decoder):
    model = attached(decoder, pad_token_id=98)
    model.config.pad_token_id = 4
    assert_rows_do_not_depend_on_padding(model, 4)
    model.mainnet.config.pad_token_id = 5
    assert model.config.pad_token_id == 5
    assert_rows_do_not_depend_on_padding(model, 5)


def test_the_trainer_aligns_the_mainnet_with_the_tokenizer(tmp_path):
    model, tokenizer = attached("gpt2", pad_token_id=98), tiny.tokenizer()
    rows = [{"input_ids": [5] * (3 + i % 4), "attention_mask": [1] * (3 + i % 4), "labels": i % 3} for i in range(8)]
    arguments = TrainingArguments(
        tmp_path, max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    assert model.mainnet.config.pad_token_id == tokenizer.pad_token_id != 98
    assert_rows_do_not_depend_on_padding(model.eval(), tokenizer.pad_token_id)


NAMED = {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id2label", NAMED),
        ("label2id", {"a": 0, "b": 1, "c": 2}),
        ("problem_type", "single_label_classification"),
        ("output_hidden_states", True),
        ("chunk_size_feed_forward", 2),
        ("is_encoder_decoder", True),
        ("layer_norm_eps", 1e-3),
        ("hidden_dropout_prob", 0.25),
        ("initializer_range", 0.5),
    ],
)
def test_every_field_of_the_mainnet_is_one_field(name, value):
    config = SideNetConfig(tiny.bert().config)
    setattr(config, name, value)
    assert getattr(config.mainnet_config, name) == value
    other = SideNetConfig(tiny.bert().config)
    setattr(other.mainnet_config, name, value)
    assert getattr(other, name) == value
    assert getattr(SideNetConfig(tiny.bert().config, **{name: value}).mainnet_config, name) == value
    for read in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert getattr(read, name) == value
    assert getattr(SideNetConfig.from_dict(json.loads(config.to_json_string())).mainnet_config, name) == value


def test_what_says_how_the_checkpoint_is_stored_is_not_the_mainnets():
    mainnet = tiny.bert().config
    mainnet.architectures, mainnet.auto_map = ["BertForSequenceClassification"], {"AutoConfig": "x.X"}
    config = SideNetConfig(mainnet)
    assert config.architectures == ["BertWithSideNetForSequenceClassification"]
    assert not hasattr(config, "auto_map")
    config.auto_map = {"AutoConfig": "y.Y"}
    assert config.mainnet_config.auto_map == {"AutoConfig": "x.X"}
    # New to both: it stays where it was set.
    config.remark = "mine"
    assert not hasattr(config.mainnet_config, "remark")
    with pytest.raises(AttributeError, match="'SideNetConfig' object has no attribute 'no_such_field'"):
        _ = config.no_such_field


def test_standard_names_are_read_through_the_mainnets_own_names():
    mainnet = DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=64, **SMALL)
    )
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[2])
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.num_labels) == (32, 4, 3)
    model.config.id2label = NAMED
    assert (model.mainnet.config.id2label, model.num_labels) == (NAMED, 3)


def test_config_json_says_each_field_once_and_the_labels_at_the_top(tmp_path):
    model = tiny.bert_with_sidenets()
    model.config.pad_token_id = 7
    model.config.id2label = NAMED
    model.save_pretrained(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    assert "pad_token_id" not in found
    assert found["mainnet_config"]["pad_token_id"] == 7
    # Where the Hub looks for them.
    assert found["id2label"] == found["mainnet_config"]["id2label"] == {"0": "a", "1": "b", "2": "c"}
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.pad_token_id, loaded.id2label) == (7, NAMED)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_outputs_asked_for_in_the_config(name, tmp_path):
    field, inputs = name.removeprefix("output_"), tiny.texts(4)
    tiny.bert_with_sidenets().save_pretrained(tmp_path / "sidenets")
    tiny.bert().save_pretrained(tmp_path / "mainnet")
    asked = {name: True, "attn_implementation": "eager"}
    models = [
        SideNetForSequenceClassification.from_pretrained(tmp_path / "sidenets", **asked),
        SideNetForSequenceClassification.from_mainnet(tmp_path / "mainnet", exit_layers=[1], **asked),
        SideNetForSequenceClassification.from_mainnet(tiny.bert(**asked), exit_layers=[1]),
    ]
    for model in models:
        model.eval()
        assert len(getattr(model(**inputs, thresholds=1.0), field)) == 4 + (name == "output_hidden_states")
        assert getattr(model(**inputs, thresholds=1.0, **{name: False}), field) is None
        with pytest.raises(ValueError, match=f"`{name}=True` needs exits off"):
            model(**inputs, thresholds=0.5)
        model.config.update({name: False})
        assert getattr(model(**inputs, thresholds=1.0), field) is None
