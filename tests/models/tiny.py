# SPDX-License-Identifier: Apache-2.0
"""Tiny random models for tests that are not about an architecture."""

import logging

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_sidenet.models import BertWithSideNetForSequenceClassification, ResNetWithSideNetForImageClassification

from .naive import spread_out


# Fields that most configs of texts have.
TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
WORDS = ["bad", "so", "good", "film", "a", "very", "witty", "dull"]


def bert(**kwargs):
    fields = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 37}
    return BertForSequenceClassification(BertConfig(**{**fields, "vocab_size": 99, "num_labels": 3, **kwargs})).eval()


def resnet(**kwargs):
    fields = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**{**fields, "num_labels": 3, **kwargs})).eval()


def bert_with_sidenets(exit_layers=(1, 3), **kwargs):
    model = BertWithSideNetForSequenceClassification.from_mainnet(bert(), exit_layers=list(exit_layers), **kwargs)
    return spread_out(model, texts(16))


def resnet_with_sidenet(exit_layers=(1,), **kwargs):
    kwargs.setdefault("input_size", [3, 32, 32])
    model = ResNetWithSideNetForImageClassification.from_mainnet(resnet(), exit_layers=list(exit_layers), **kwargs)
    return spread_out(model, images(16))


def texts(batch_size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, 99, (batch_size, 9), generator=generator)}


def images(batch_size=4, size=32):
    return {"pixel_values": torch.randn(batch_size, 3, size, size)}


def tokenizer(**kwargs):
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: i + 3 for i, word in enumerate(WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names, **kwargs
    )


class Collecting(logging.Handler):
    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def emit(self, record):
        self.lines.append(record.getMessage())
