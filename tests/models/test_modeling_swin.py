# SPDX-License-Identifier: Apache-2.0
from transformers import SwinConfig, SwinForImageClassification

from hf_sidenet.models import SwinWithSideNetForImageClassification

from .tester import ImageTester


class TestSwin(ImageTester):
    model_class = SwinWithSideNetForImageClassification
    mainnet_class = SwinForImageClassification

    def config(self):
        return SwinConfig(
            embed_dim=8,
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 2, 4],
            # Stage 3 has a shifted window.
            window_size=2,
            image_size=32,
            patch_size=2,
            num_labels=3,
        )
