# SPDX-License-Identifier: Apache-2.0
import pytest
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sidenet.models import TimmWithSideNetForImageClassification

from .tester import ImageTester


pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')


class TestTimmResNet(ImageTester):
    model_class = TimmWithSideNetForImageClassification
    mainnet_class = TimmWrapperForImageClassification
    checkpointing = False
    architecture, model_args = "resnet10t", {"channels": [8, 16, 24, 32]}

    def config(self):
        return TimmWrapperConfig(architecture=self.architecture, model_args=self.model_args, num_labels=3)


class TestTimmVgg(TestTimmResNet):
    architecture, model_args = "vgg11", {"mlp_ratio": 0.01}
