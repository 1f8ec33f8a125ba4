# SPDX-License-Identifier: Apache-2.0
from transformers import RegNetConfig, RegNetForImageClassification

from hf_sidenet.models import RegNetWithSideNetForImageClassification

from .tester import ImageTester


class TestRegNet(ImageTester):
    model_class = RegNetWithSideNetForImageClassification
    mainnet_class = RegNetForImageClassification

    def config(self):
        return RegNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            groups_width=8,
            num_labels=3,
        )
