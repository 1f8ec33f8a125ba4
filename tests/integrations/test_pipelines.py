# SPDX-License-Identifier: Apache-2.0
"""transformers' pipelines with `batch_size`: rows of a batch leave early, and get the answers of single rows."""

import random

import pytest
import torch
from transformers import ViTImageProcessor, pipeline

from ..models import tiny
from ..models.test_pipeline import pictures
from .cases import every_exit_of, middle_threshold, rows_per_block


def sentences(count):
    chance = random.Random(0)
    return [" ".join(chance.choices(tiny.WORDS, k=chance.randint(1, 9))) for _ in range(count)]


def scores_of(answers):
    """(rows, classes), sorted by the names of the classes."""
    return torch.tensor([[e["score"] for e in sorted(answer, key=lambda e: e["label"])] for answer in answers])


def check(make, model, rows, inputs):
    """`make(batch_size=...)` gives a pipeline of the model; `inputs` are the same rows in one batch."""
    single = scores_of(make()(rows, top_k=None))
    with rows_per_block(model) as calls:
        batched = scores_of(make(batch_size=8)(rows, top_k=None))
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)
    full = every_exit_of(model, inputs)
    with torch.no_grad():
        exit_index = model(**inputs).exit_index
    torch.testing.assert_close(single, full[torch.arange(len(rows)), exit_index].softmax(-1), rtol=0, atol=1e-5)
    stayed = int((exit_index > 0).sum())
    assert 0 < stayed < len(rows)
    assert calls[0] == [8] * (len(rows) // 8)
    assert [sum(seen) for seen in calls[:-1]] == [len(rows)] + [stayed] * (len(calls) - 2)
    # What they would have been without exits.
    assert not torch.allclose(single, full[:, -1].softmax(-1), rtol=0, atol=1e-3)


def test_texts():
    model, rows = tiny.bert_with_sidenets(exit_layers=[1]), sentences(24)
    inputs = dict(tiny.tokenizer()(rows, padding=True, return_tensors="pt"))
    model.config.thresholds = [middle_threshold(model, inputs)]

    def make(**kwargs):
        return pipeline("text-classification", model=model, tokenizer=tiny.tokenizer(), **kwargs)

    check(make, model, rows, inputs)


def test_pictures():
    pytest.importorskip("PIL", reason='needs pip install "hf_sidenet[vision]"')
    model, rows = tiny.resnet_with_sidenet(), pictures(24)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    inputs = dict(processor(rows, return_tensors="pt"))
    model.config.thresholds = [middle_threshold(model, inputs)]

    def make(**kwargs):
        classify = pipeline("image-classification", model=model, image_processor=processor, **kwargs)
        return lambda images, top_k: classify(images, top_k=3)

    check(make, model, rows, inputs)
