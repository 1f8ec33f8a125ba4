# SPDX-License-Identifier: Apache-2.0
"""What cannot take a SideNet is refused when it is attached, with the reason. The errors go to docs/mainnets.md."""

import pytest
import transformers
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification

from . import tiny


TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "num_labels": 3,
    "vocab_size": 99,
}
MAPS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 3}
LIST = "must be one list of at least 2 modules that run once each"
ARGUMENT = r"block argument '{}' of shape \(.*\) may or may not have one row per example"
CACHE = "block argument 'cache' is a EncoderDecoderCache"

# Model type: (fields of the config, `blocks`, part of the error).
TEXTS = {
    "albert": ({**TEXT, "embedding_size": 16}, None, rf"{LIST}.*reuses one layer \(ALBERT\)"),
    "bart": (ENCODER_DECODER, None, LIST),
    "big_bird": ({**TEXT, "block_size": 4}, None, "replaces its own modules"),
    "bloom": (
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 4, "n_head": 2, "pad_token_id": 0, "num_labels": 3},
        None,
        ARGUMENT.format("alibi"),
    ),
    "canine": ({**TEXT, "downsampling_rate": 2, "num_hash_buckets": 64}, None, "one vector per token"),
    "flaubert": (
        {"emb_dim": 32, "n_layers": 4, "n_heads": 2, "vocab_size": 99, "n_words": 99, "num_labels": 3},
        None,
        LIST,
    ),
    "funnel": (
        {"d_model": 32, "block_sizes": [2, 2], "n_head": 2, "d_head": 8, "d_inner": 37, "vocab_size": 99},
        None,
        r"run once each, in order, but .* ran as \[\]",
    ),
    "longformer": ({**TEXT, "attention_window": 4}, None, ARGUMENT.format("is_index_masked")),
    "openai-gpt": (
        {"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 99, "n_positions": 64, "pad_token_id": 0},
        None,
        "the last block must return a tensor or a tuple, got list",
    ),
    "reformer": (
        {
            "attn_layers": ["local", "local"],
            "hidden_size": 32,
            "axial_pos_embds_dim": [16, 16],
            "axial_pos_shape": [8, 8],
            "num_attention_heads": 2,
            "attention_head_size": 8,
            "feed_forward_size": 37,
            "vocab_size": 99,
            "is_decoder": False,
        },
        None,
        ARGUMENT.format("hidden_states"),
    ),
    "squeezebert": (
        {**TEXT, "embedding_size": 32, "intermediate_size": 32},
        None,
        r"run once each, in order, but .* ran as \[\]",
    ),
    "t5": (
        {"d_model": 32, "d_ff": 37, "d_kv": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 99, "num_labels": 3},
        None,
        LIST,
    ),
    "xlm": (
        {"emb_dim": 32, "n_layers": 4, "n_heads": 2, "vocab_size": 99, "n_words": 99, "num_labels": 3},
        "transformer.attentions",
        CACHE,
    ),
    "xlnet": (
        {"d_model": 32, "n_layer": 4, "n_head": 2, "d_inner": 37, "vocab_size": 99, "num_labels": 3},
        None,
        "must have the batch on axis 0",
    ),
    "xmod": ({**TEXT, "languages": ["en"], "default_language": "en"}, None, ARGUMENT.format("lang_ids")),
}
IMAGES = {
    "cvt": (
        {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        "its last block returns more than the hidden states",
    ),
    "hgnet_v2": ({"num_labels": 3}, LIST),
    "imagegpt": (
        {"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 99, "n_positions": 64},
        "input_ids or inputs_embeds",
    ),
    "poolformer": (MAPS, LIST),
    "pp_lcnet": ({"scale": 0.25, "num_labels": 3}, "logits of shape"),
    "pvt": ({**MAPS, "image_size": 64, "num_attention_heads": [1, 2, 2, 4]}, LIST),
    "pvt_v2": (
        {**MAPS, "image_size": 64, "num_attention_heads": [1, 2, 2, 4]},
        "it fails when a row exits",
    ),
    "textnet": ({"num_labels": 3}, LIST),
}


TIMM = {
    # Older timm names no stages of these two.
    "coat_tiny": r"run once each, in order, but .* ran as \[\]|at least 2 stages, got \[\]",
    "crossvit_tiny_240": r"must return one tensor to take a SideNet, got list|at least 2 stages, got \[\]",
    "mvitv2_tiny": "which are not among its modules",
    "pit_ti_224": "must return one tensor to take a SideNet, got tuple",
    "swin_tiny_patch4_window7_224": "passes channels-last feature maps",
    "test_mambaout": "passes channels-last feature maps",
    "tresnet_m": "must name at least 2 stages",
    "volo_d1_224": "must have the channels first",
    "xception41": "it fails when a row exits",
}


def attach(wrapper, mainnet, message, record_property, name, **kwargs):
    with pytest.raises(ValueError, match=message) as error:
        wrapper.from_mainnet(mainnet, exit_layers=[1], **kwargs)
    record_property("refused", name)
    record_property("reason", str(error.value))


def build(model_type, fields, auto_class):
    config = transformers.CONFIG_MAPPING[model_type](**fields)
    config.num_labels = 3
    return auto_class.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("model_type", TEXTS)
def test_text(model_type, record_property):
    fields, blocks, message = TEXTS[model_type]
    mainnet = build(model_type, fields, AutoModelForSequenceClassification)
    name = f"{type(mainnet).__name__}{f', `blocks={blocks!r}`' if blocks else ''}"
    attach(SideNetForSequenceClassification, mainnet, message, record_property, name, blocks=blocks)


@pytest.mark.parametrize("model_type", IMAGES)
def test_images(model_type, record_property):
    fields, message = IMAGES[model_type]
    mainnet = build(model_type, fields, AutoModelForImageClassification)
    kwargs = {"input_size": [3, 64, 64]}
    attach(SideNetForImageClassification, mainnet, message, record_property, type(mainnet).__name__, **kwargs)


def test_a_shared_layer_named_as_block_list(record_property):
    config = transformers.AlbertConfig(**TEXT, embedding_size=16, inner_group_num=2)
    mainnet = transformers.AlbertForSequenceClassification(config)
    name, blocks = "AlbertForSequenceClassification, `blocks='albert_layers'`", "albert_layers"
    message = "blocks must run once each, in order"
    attach(SideNetForSequenceClassification, mainnet, message, record_property, name, blocks=blocks)


@pytest.mark.parametrize("architecture", TIMM)
def test_timm(architecture, record_property):
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    config = transformers.TimmWrapperConfig(architecture=architecture, num_labels=3)
    mainnet = transformers.TimmWrapperForImageClassification(config).eval()
    name, size = f"timm {architecture}", 240 if architecture.endswith("240") else 224
    kwargs = {"input_size": [3, size, size]}
    attach(SideNetForImageClassification, mainnet, TIMM[architecture], record_property, name, **kwargs)


@pytest.mark.parametrize(
    "kind", ["ForTokenClassification", "ForMaskedLM", "Model", "ForMultipleChoice", "ForNextSentencePrediction"]
)
def test_other_tasks(kind, record_property):
    mainnet = getattr(transformers, f"Bert{kind}")(tiny.bert(num_labels=2).config)
    name = type(mainnet).__name__
    message = f"a MainNet must be a classifier .* is BertForSequenceClassification; got {name}"
    attach(SideNetForSequenceClassification, mainnet, message, record_property, name)


def test_a_class_that_a_checkpoint_does_not_name(record_property):
    class Louder(transformers.BertForSequenceClassification):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 2 * output.logits
            return output

    message = "a MainNet must be a classifier .* is BertForSequenceClassification; got Louder"
    name = "a subclass of BertForSequenceClassification"
    attach(SideNetForSequenceClassification, Louder(tiny.bert().config), message, record_property, name)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"problem_type": "regression"}, "regression"),
        ({"num_labels": 1}, "one label (regression)"),
        ({"problem_type": "multi_label_classification"}, "multi-label classification"),
    ],
)
def test_other_problems(fields, name, record_property):
    message = "Regression and multi-label MainNets"
    attach(SideNetForSequenceClassification, tiny.bert(**fields), message, record_property, f"any, {name}")


REMOTE = """
from transformers import BertConfig, BertForSequenceClassification


class RemoteConfig(BertConfig):
    model_type = "{model_type}"


class RemoteForSequenceClassification(BertForSequenceClassification):
    config_class = RemoteConfig
"""


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_remote_code(model_type, record_property, tmp_path):
    mainnet = tiny.bert()
    mainnet.config.auto_map = {
        "AutoConfig": "modeling_remote.RemoteConfig",
        "AutoModelForSequenceClassification": "modeling_remote.RemoteForSequenceClassification",
    }
    mainnet.save_pretrained(tmp_path)
    (tmp_path / "modeling_remote.py").write_text(REMOTE.format(model_type=model_type))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', f'"model_type": "{model_type}"'))
    message = "transformers' own code, because a checkpoint stores no other code|model_type' that transformers knows"
    name = f"remote code, `model_type={model_type!r}`"
    attach(SideNetForSequenceClassification, str(tmp_path), message, record_property, name, trust_remote_code=True)
