# SPDX-License-Identifier: Apache-2.0
"""Early exits for Hugging Face classifiers: "Add a SideNet to your MainNet" (Morisot, arXiv 2007.13512)."""

from .measurement import ExitRecords, collect
from .models import (
    BertWithSideNetForSequenceClassification,
    DistilBertWithSideNetForSequenceClassification,
    ResNetWithSideNetForImageClassification,
    RobertaWithSideNetForSequenceClassification,
    SideNetConfig,
    SideNetForImageClassification,
    SideNetForSequenceClassification,
    SideNetOutput,
    TimmWithSideNetForImageClassification,
    ViTWithSideNetForImageClassification,
)
from .training import compute_exit_metrics


__version__ = "0.1.0.dev0"

__all__ = [
    "BertWithSideNetForSequenceClassification",
    "DistilBertWithSideNetForSequenceClassification",
    "ExitRecords",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
    "collect",
    "compute_exit_metrics",
]
