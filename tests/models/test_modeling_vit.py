# SPDX-License-Identifier: Apache-2.0
from transformers import ViTConfig, ViTForImageClassification

from hf_sidenet.models import ViTWithSideNetForImageClassification

from .tester import ImageTester


class TestViT(ImageTester):
    model_class = ViTWithSideNetForImageClassification
    mainnet_class = ViTForImageClassification
    compiled_exit_layers, compiled_dynamic = (1, 3), None

    def config(self):
        return ViTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            image_size=32,
            patch_size=8,
            num_labels=3,
        )
