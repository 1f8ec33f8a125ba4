# SPDX-License-Identifier: Apache-2.0
"""Training with the stock `Trainer`."""

from .arguments import MainNetArguments, SideNetArguments
from .build import build_model, learns_classes, load_config
from .callbacks import SameStatisticsCallback
from .classes import ClassMap
from .labels import align_labels, find_classes, number_labels
from .optimizers import parameter_groups, trainer_optimizer
from .trainer_metrics import compute_exit_metrics, routed_exit_metrics


__all__ = [
    "ClassMap",
    "MainNetArguments",
    "SameStatisticsCallback",
    "SideNetArguments",
    "align_labels",
    "build_model",
    "compute_exit_metrics",
    "find_classes",
    "learns_classes",
    "load_config",
    "number_labels",
    "parameter_groups",
    "routed_exit_metrics",
    "trainer_optimizer",
]
