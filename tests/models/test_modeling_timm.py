# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sidenet.models import TimmWithSideNetForImageClassification

from .tester import ImageTester


timm = pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')


def why_regnet_does_not_load():
    try:
        with torch.device("meta"):
            timm.create_model("regnetx_002")
    except NotImplementedError:
        return "this timm cannot make a RegNet on the meta device, where transformers makes what it loads"
    return ""


class TestTimmResNet(ImageTester):
    model_class = TimmWithSideNetForImageClassification
    mainnet_class = TimmWrapperForImageClassification
    architecture = "resnet10t"
    model_args = {"channels": [8, 16, 24, 32]}

    @classmethod
    def title(cls):
        return f"timm {cls.architecture}"

    def config(self):
        return TimmWrapperConfig(architecture=self.architecture, model_args=self.model_args, num_labels=3)


class TestTimmConvNext(TestTimmResNet):
    architecture = "convnext_atto"
    model_args = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32], "patch_size": 2}


@pytest.mark.skipif(bool(why_regnet_does_not_load()), reason=why_regnet_does_not_load())
class TestTimmRegNet(TestTimmResNet):
    unloadable = why_regnet_does_not_load()
    architecture = "regnetx_002"
    model_args = {}
    # Of 32 px one is left at the end, where random BatchNorms magnify rounding.
    image_size = 96


class TestTimmViT(TestTimmResNet):
    architecture = "vit_tiny_patch16_224"
    model_args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}


class TestTimmDeiT(TestTimmViT):
    architecture = "deit_tiny_patch16_224"


class TestTimmDeiTWithTeacher(TestTimmViT):
    architecture = "deit_tiny_distilled_patch16_224"
