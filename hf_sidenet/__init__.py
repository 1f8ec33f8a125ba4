# SPDX-License-Identifier: Apache-2.0
"""Early exits for Hugging Face classifiers: "Add a SideNet to your MainNet" (Morisot, arXiv 2007.13512)."""

from .attaching.attach import attach
from .inference import SideNetRunner
from .measurement import ExitRecords, collect
from .models import (
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
    SideNetConfig,
    SideNetForImageClassification,
    SideNetForSequenceClassification,
    SideNetOutput,
    SwinWithSideNetForImageClassification,
    TimmWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
    XLMRobertaWithSideNetForSequenceClassification,
)
from .training import compute_exit_metrics


__version__ = "0.2.0"

__all__ = [
    "BertWithSideNetForSequenceClassification",
    "CamembertWithSideNetForSequenceClassification",
    "ConvNextV2WithSideNetForImageClassification",
    "ConvNextWithSideNetForImageClassification",
    "DebertaV2WithSideNetForSequenceClassification",
    "DeiTWithSideNetForImageClassification",
    "Dinov2WithSideNetForImageClassification",
    "DistilBertWithSideNetForSequenceClassification",
    "ElectraWithSideNetForSequenceClassification",
    "ExitRecords",
    "MPNetWithSideNetForSequenceClassification",
    "ModernBertWithSideNetForSequenceClassification",
    "RegNetWithSideNetForImageClassification",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "SideNetRunner",
    "SwinWithSideNetForImageClassification",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
    "XLMRobertaWithSideNetForSequenceClassification",
    "attach",
    "collect",
    "compute_exit_metrics",
]
