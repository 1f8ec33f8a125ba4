# SPDX-License-Identifier: Apache-2.0
"""`pipeline` gives the answers of the model, early exits included."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessor, pipeline

from . import tiny


WORDS = ["bad", "so", "good", "film", "a", "very", "witty", "dull"]


def tokenizer():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: i + 3 for i, word in enumerate(WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    )


@pytest.mark.parametrize("quantile", [0.5, None], ids=["some leave", "all leave"])
def test_text_classification(quantile, tmp_path):
    model = tiny.bert_with_sidenets()
    texts = ["a very good film", "bad", "so so dull a film", "witty", "a dull film very very bad"]
    batch = tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        first = model(**batch, thresholds=1.0).exit_logits[:, 0].softmax(-1).amax(-1)
        model.config.thresholds = [0.0, 0.0] if quantile is None else [first.quantile(quantile).item(), 1.0]
        expected = model(**batch)
    assert quantile is None or 0 < (expected.exit_index == 2).sum() < 5
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    for options in ({}, {"batch_size": 3}):
        classify = pipeline("text-classification", model=str(tmp_path), trust_remote_code=True, **options)
        answers = classify(texts, top_k=None)
        for answer, logits in zip(answers, expected.logits, strict=True):
            scores = {entry["label"]: entry["score"] for entry in answer}
            for i, p in enumerate(logits.softmax(-1).tolist()):
                assert scores[f"LABEL_{i}"] == pytest.approx(p, abs=1e-5)


def test_image_classification(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason='needs pip install "hf_sidenet[vision]"')
    model = tiny.resnet_with_sidenet(thresholds=0.6)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    generator = np.random.default_rng(0)
    pictures = [image_module.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(4)]
    with torch.no_grad():
        expected = model(**processor(pictures, return_tensors="pt")).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path), trust_remote_code=True)
    for answer, logits in zip(classify(pictures, top_k=3, batch_size=2), expected, strict=True):
        best = max(answer, key=lambda entry: entry["score"])
        assert best["label"] == f"LABEL_{logits.argmax()}"
        assert best["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-4)
