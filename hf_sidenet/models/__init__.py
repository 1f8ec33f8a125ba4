# SPDX-License-Identifier: Apache-2.0
"""The models. Importing this package registers them with the Auto classes; this file does not travel."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from .configuration_sidenet import SideNetConfig
from .modeling_base import SideNetOutput
from .modeling_sidenet import (
    BertWithSideNetForSequenceClassification,
    CamembertWithSideNetForSequenceClassification,
    ConvNextV2WithSideNetForImageClassification,
    ConvNextWithSideNetForImageClassification,
    DebertaV2WithSideNetForSequenceClassification,
    DeiTWithSideNetForImageClassification,
    Dinov2WithSideNetForImageClassification,
    DistilBertWithSideNetForSequenceClassification,
    ElectraWithSideNetForSequenceClassification,
    ModernBertWithSideNetForSequenceClassification,
    MPNetWithSideNetForSequenceClassification,
    RegNetWithSideNetForImageClassification,
    ResNetWithSideNetForImageClassification,
    RobertaWithSideNetForSequenceClassification,
    SideNetForImageClassification,
    SideNetForSequenceClassification,
    SwinWithSideNetForImageClassification,
    TimmWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
    XLMRobertaWithSideNetForSequenceClassification,
)


TEXT_MODELS = (
    SideNetForSequenceClassification,
    BertWithSideNetForSequenceClassification,
    DistilBertWithSideNetForSequenceClassification,
    RobertaWithSideNetForSequenceClassification,
    XLMRobertaWithSideNetForSequenceClassification,
    CamembertWithSideNetForSequenceClassification,
    ElectraWithSideNetForSequenceClassification,
    MPNetWithSideNetForSequenceClassification,
    DebertaV2WithSideNetForSequenceClassification,
    ModernBertWithSideNetForSequenceClassification,
)
IMAGE_MODELS = (
    SideNetForImageClassification,
    ResNetWithSideNetForImageClassification,
    RegNetWithSideNetForImageClassification,
    ConvNextWithSideNetForImageClassification,
    ConvNextV2WithSideNetForImageClassification,
    DeiTWithSideNetForImageClassification,
    Dinov2WithSideNetForImageClassification,
    SwinWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
    TimmWithSideNetForImageClassification,
)

# One entry per Auto class holds every model class; a checkpoint's `architectures` picks.
AutoConfig.register("sidenet", SideNetConfig)
AutoModel.register(SideNetConfig, (*TEXT_MODELS, *IMAGE_MODELS))
AutoModelForSequenceClassification.register(SideNetConfig, TEXT_MODELS)
AutoModelForImageClassification.register(SideNetConfig, IMAGE_MODELS)

__all__ = [
    "IMAGE_MODELS",
    "TEXT_MODELS",
    "BertWithSideNetForSequenceClassification",
    "CamembertWithSideNetForSequenceClassification",
    "ConvNextV2WithSideNetForImageClassification",
    "ConvNextWithSideNetForImageClassification",
    "DebertaV2WithSideNetForSequenceClassification",
    "DeiTWithSideNetForImageClassification",
    "Dinov2WithSideNetForImageClassification",
    "DistilBertWithSideNetForSequenceClassification",
    "ElectraWithSideNetForSequenceClassification",
    "MPNetWithSideNetForSequenceClassification",
    "ModernBertWithSideNetForSequenceClassification",
    "RegNetWithSideNetForImageClassification",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "SwinWithSideNetForImageClassification",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
    "XLMRobertaWithSideNetForSequenceClassification",
]
