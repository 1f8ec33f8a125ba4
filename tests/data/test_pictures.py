# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, TimmWrapperConfig, TimmWrapperForImageClassification, ViTImageProcessor

from hf_sidenet import SideNetForImageClassification, SideNetRunner
from hf_sidenet.data.limits import in_channels, num_channels_of

from ..models import tiny


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ResNetConfig(), 3),
        (ResNetConfig(num_channels=1), 1),
        (TimmWrapperConfig(architecture="resnet10t", model_args={"in_chans": 1}), 1),
        (TimmWrapperConfig(architecture="resnet10t", pretrained_cfg={"input_size": [4, 8, 8]}), 4),
        (
            TimmWrapperConfig(
                architecture="resnet10t", model_args={"in_chans": 1}, pretrained_cfg={"input_size": [3, 8, 8]}
            ),
            1,
        ),
    ],
)
def test_what_a_config_says(config, expected):
    assert num_channels_of(config) == expected


def test_a_gray_timm_mainnet_is_attached():
    config = TimmWrapperConfig(
        architecture="resnet10t", model_args={"in_chans": 1, "channels": [8] * 4}, num_labels=3,
        pretrained_cfg={"input_size": [3, 32, 32]},
    )  # fmt: skip
    mainnet = TimmWrapperForImageClassification(config).eval()
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1])
    assert model.config.input_size == [1, 32, 32]
    assert model(torch.randn(2, 1, 32, 32)).logits.shape == (2, 3)


def test_what_is_no_picture_stays_as_it_is():
    array = np.zeros((8, 8))
    assert in_channels(array, 1) is array
    picture = Image.new("RGB", (8, 8))
    assert in_channels(picture, 3) is picture
    assert in_channels(picture, 7) is picture
    assert in_channels(picture, 1).mode == "L"


@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_runner_reads_pictures_of_every_mode(num_channels):
    values = [0.5] * num_channels
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=values, image_std=values)
    mainnet = tiny.resnet(num_channels=num_channels)
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1], input_size=[num_channels, 32, 32])
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))
    modes = ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA"]
    found = list(SideNetRunner(model.eval(), processor).predict([rgb.convert(mode) for mode in modes]))
    assert [each.error for each in found] == [None] * len(modes)
    gray = rgb.convert("L")
    (same,) = SideNetRunner(model, processor).predict([in_channels(gray, num_channels)])
    torch.testing.assert_close(same.logits, found[2].logits)
