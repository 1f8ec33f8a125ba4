# SPDX-License-Identifier: Apache-2.0
"""The models. Importing this package registers them with the Auto classes; this file does not travel."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from .configuration_sidenet import SideNetConfig
from .modeling_sidenet import (
    BertWithSideNetForSequenceClassification,
    DistilBertWithSideNetForSequenceClassification,
    ResNetWithSideNetForImageClassification,
    RobertaWithSideNetForSequenceClassification,
    SideNetForImageClassification,
    SideNetForSequenceClassification,
    TimmWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
)
from .outputs import SideNetOutput


TEXT_MODELS = (
    SideNetForSequenceClassification,
    BertWithSideNetForSequenceClassification,
    DistilBertWithSideNetForSequenceClassification,
    RobertaWithSideNetForSequenceClassification,
)
IMAGE_MODELS = (
    SideNetForImageClassification,
    ResNetWithSideNetForImageClassification,
    TimmWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
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
    "DistilBertWithSideNetForSequenceClassification",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
]
