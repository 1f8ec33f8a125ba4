# SPDX-License-Identifier: Apache-2.0
import pytest

from .test_modeling_timm import TestTimmResNet as _Timm


pytestmark = pytest.mark.medium


pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')


class TestTimmEfficientNet(_Timm):
    architecture = "efficientnet_b0"
    model_args = {}


class TestTimmMobileNetV3(_Timm):
    architecture = "mobilenetv3_small_050"
    model_args = {}


class TestTimmVgg(_Timm):
    architecture = "vgg11"
    model_args = {"mlp_ratio": 0.01}
