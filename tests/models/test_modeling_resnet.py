# SPDX-License-Identifier: Apache-2.0
from transformers import ResNetConfig, ResNetForImageClassification

from hf_sidenet.models import ResNetWithSideNetForImageClassification

from .tester import ImageTester


class TestResNet(ImageTester):
    model_class = ResNetWithSideNetForImageClassification
    mainnet_class = ResNetForImageClassification
    compiled_exit_layers, compiled_dynamic = (1, 3), None
    layer_type = "basic"
    # Looked at with images of 224 px, then run with 32.
    attach = {}

    def config(self):
        return ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            layer_type=self.layer_type,
            num_labels=3,
        )


class TestResNetBottleneck(TestResNet):
    layer_type = "bottleneck"
    compiled_exit_layers, compiled_dynamic = (1,), False
