# SPDX-License-Identifier: Apache-2.0
from transformers import Dinov2Config, Dinov2ForImageClassification

from hf_sidenet.models import Dinov2WithSideNetForImageClassification

from .tester import ImageTester


class TestDinov2(ImageTester):
    model_class = Dinov2WithSideNetForImageClassification
    mainnet_class = Dinov2ForImageClassification

    def config(self):
        return Dinov2Config(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=32,
            patch_size=8,
            num_labels=3,
        )
