# SPDX-License-Identifier: Apache-2.0
from transformers import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher

from hf_sidenet.models import DeiTWithSideNetForImageClassification

from .tester import ImageTester


class TestDeiT(ImageTester):
    model_class = DeiTWithSideNetForImageClassification
    mainnet_class = DeiTForImageClassification

    def config(self):
        return DeiTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            image_size=32,
            patch_size=8,
            num_labels=3,
        )


class TestDeiTWithTeacher(TestDeiT):
    mainnet_class = DeiTForImageClassificationWithTeacher
