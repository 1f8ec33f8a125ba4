# SPDX-License-Identifier: Apache-2.0
"""`pipeline` gives the answers of the model, early exits included."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_sidenet.models import TimmWithSideNetForImageClassification

from . import tiny


@pytest.mark.parametrize("quantile", [0.375, None], ids=["some leave", "all leave"])
def test_text_classification(quantile, tmp_path):
    model = tiny.bert_with_sidenets()
    texts = ["a very good film", "bad", "so so dull a film", "witty", "a dull film very very bad"]
    batch = tiny.tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        first = model(**batch, thresholds=1.0).exit_logits[:, 0].softmax(-1).amax(-1)
        model.config.thresholds = [0.0, 0.0] if quantile is None else [first.quantile(quantile).item(), 1.0]
        expected = model(**batch)
    assert quantile is None or 0 < (expected.exit_index == 2).sum() < 5
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    for options in ({}, {"batch_size": 3}):
        classify = pipeline("text-classification", model=str(tmp_path), trust_remote_code=True, **options)
        answers = classify(texts, top_k=None)
        for answer, logits in zip(answers, expected.logits, strict=True):
            scores = {entry["label"]: entry["score"] for entry in answer}
            for i, p in enumerate(logits.softmax(-1).tolist()):
                assert scores[f"LABEL_{i}"] == pytest.approx(p, abs=1e-5)


def pictures(count=4):
    image_module = pytest.importorskip("PIL.Image", reason='needs pip install "hf_sidenet[vision]"')
    generator = np.random.default_rng(0)
    return [image_module.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


def check_images(folder, images, expected):
    classify = pipeline("image-classification", model=str(folder), trust_remote_code=True)
    for answer, logits in zip(classify(images, top_k=3, batch_size=2), expected, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert scores == pytest.approx({f"LABEL_{i}": p for i, p in enumerate(logits.softmax(-1).tolist())}, abs=1e-4)


def test_image_classification(tmp_path):
    images = pictures()
    model = tiny.resnet_with_sidenet(thresholds=0.6)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    with torch.no_grad():
        expected = model(**processor(images, return_tensors="pt")).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    check_images(tmp_path, images, expected)


def test_timm_carries_its_image_processing_in_the_config(tmp_path):
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    images = pictures()
    pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.9}
    config = TimmWrapperConfig(
        architecture="resnet10t", model_args={"channels": [8, 8, 8, 8]}, num_labels=3, pretrained_cfg=pretrained_cfg
    )
    mainnet = TimmWrapperForImageClassification(config)
    mainnet.timm_model.fc.weight.data.normal_()
    mainnet.save_pretrained(tmp_path / "mainnet")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "mainnet")
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    model = TimmWithSideNetForImageClassification.from_mainnet(tmp_path / "mainnet", exit_layers=[1], thresholds=0.4)
    model.save_pretrained(tmp_path / "sidenet")
    again = AutoImageProcessor.from_pretrained(tmp_path / "sidenet", trust_remote_code=True)
    assert torch.equal(again(images, return_tensors="pt")["pixel_values"], pixels)
    with torch.no_grad():
        check_images(tmp_path / "sidenet", images, model(pixel_values=pixels).logits)
