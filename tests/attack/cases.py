# SPDX-License-Identifier: Apache-2.0
"""Rows for the tiny checkpoint."""

import random

import torch
from datasets import Dataset

from ..hub.folder import WORDS


def texts(count=240):
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS, k=12)) for _ in range(count)]


def prepared(tokenizer, labels):
    """Inputs of as many texts, with indices of classes."""
    inputs = map(tokenizer, texts(len(labels)))
    return [{**row, "labels": label} for row, label in zip(inputs, labels, strict=True)]


@torch.no_grad()
def answered(checkpoint, rows):
    """Texts with the MainNet's own answers as labels, as a monitor keeps them."""
    model, tokenizer = checkpoint
    own = model.mainnet(**tokenizer(rows, padding=True, return_tensors="pt")).logits.argmax(-1)
    return Dataset.from_dict({"text": rows, "label": [model.config.id2label[index] for index in own.tolist()]})
