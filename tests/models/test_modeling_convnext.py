# SPDX-License-Identifier: Apache-2.0
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)

from hf_sidenet.models import ConvNextV2WithSideNetForImageClassification, ConvNextWithSideNetForImageClassification

from .tester import ImageTester


class TestConvNext(ImageTester):
    model_class = ConvNextWithSideNetForImageClassification
    mainnet_class = ConvNextForImageClassification
    config_class = ConvNextConfig

    def config(self):
        return self.config_class(
            hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], patch_size=2, image_size=32, num_labels=3
        )


class TestConvNextV2(TestConvNext):
    model_class = ConvNextV2WithSideNetForImageClassification
    mainnet_class = ConvNextV2ForImageClassification
    config_class = ConvNextV2Config
