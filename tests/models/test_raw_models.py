# SPDX-License-Identifier: Apache-2.0
"""A model from `timm.create_model` is a MainNet as it is."""

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_sidenet.attaching.steps import load_mainnet
from hf_sidenet.models import SideNetForImageClassification


timm = pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def made(name="resnet10t", **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **kwargs).eval()


def attached(model, **kwargs):
    return SideNetForImageClassification.from_mainnet(model, exit_layers=[1], input_size=[3, 64, 64], **kwargs)


def test_its_answers_and_its_weights_stay(tmp_path):
    model = made()
    with torch.no_grad():
        expected = model(IMAGES)
        with_sidenet = attached(model)
        assert with_sidenet.mainnet.timm_model is model
        assert torch.equal(with_sidenet(IMAGES, thresholds=1.0).logits, expected)
        assert with_sidenet.config.num_labels == 5
        with_sidenet.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(IMAGES, thresholds=1.0).logits, expected, rtol=1e-4, atol=1e-5)
    # Its size, mean and scale are in the checkpoint.
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert list(processor.data_config["mean"]) == list(model.pretrained_cfg["mean"])


def test_other_channels_are_found(tmp_path):
    model = made("vit_tiny_patch16_224", in_chans=1, img_size=224)
    images = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        with_sidenet = SideNetForImageClassification.from_mainnet(model, exit_layers=[2])
        assert torch.equal(with_sidenet(images, thresholds=1.0).logits, model(images))
        with_sidenet.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(images, thresholds=1.0).logits, model(images), rtol=1e-4, atol=1e-5)


def test_attach_loads_it_with_its_image_processor():
    given, processor = load_mainnet(made(), None, {})
    assert given.block_shapes[0][0] == 64
    assert list(processor.data_config["input_size"]) == [3, 176, 176]


def test_what_a_checkpoint_could_not_rebuild_is_refused():
    model = made()
    model.fc = torch.nn.Sequential(torch.nn.Dropout(), model.fc)
    with pytest.raises(
        ValueError, match=r"must be what timm makes of 'resnet10t' and 5 classes, but 'fc\..*' is .*, not"
    ):
        attached(model)
    with pytest.raises(ValueError, match="must be a classifier, with `num_classes` ≥ 2, got 0"):
        attached(timm.create_model("resnet10t", num_classes=0))
