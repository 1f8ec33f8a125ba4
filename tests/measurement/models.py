# SPDX-License-Identifier: Apache-2.0
"""Tiny models and inputs for the tests of measurement, training and evaluation."""

import torch
from transformers import BertConfig, BertForSequenceClassification, DebertaV2Config, DebertaV2ForSequenceClassification

from hf_sidenet.models import BertWithSideNetForSequenceClassification, SideNetForSequenceClassification
from tests.models.naive import spread_out
from tests.models.tiny import resnet_with_sidenet


BERT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "num_labels": 3,
}


def tiny_bert(exit_layers=(1, 3), **kwargs):
    mainnet = BertForSequenceClassification(BertConfig(**BERT, **kwargs))
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=list(exit_layers))
    inputs = texts(16)
    inputs.pop("labels")
    return spread_out(model, inputs)


def tiny_deberta(exit_layers=(1, 3)):
    positions = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    mainnet = DebertaV2ForSequenceClassification(DebertaV2Config(**BERT, **positions))
    return SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=list(exit_layers))


def tiny_resnet(exit_layers=(1, 3)):
    return resnet_with_sidenet(exit_layers)


def texts(batch_size, length=7, seed=0):
    """Token ids, a mask with padding, and labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (batch_size, 1), generator=generator)
    return {
        "input_ids": torch.randint(3, 99, (batch_size, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths).long(),
        "labels": torch.randint(0, 3, (batch_size,), generator=generator),
    }
