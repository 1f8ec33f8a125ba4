# SPDX-License-Identifier: Apache-2.0
"""Training with the stock `Trainer`."""

from .arguments import MainNetArguments, SideNetArguments, build_model, learns_classes, load_config
from .optimizers import SameStatisticsCallback, parameter_groups, trainer_optimizer
from .trainer_metrics import compute_exit_metrics, routed_exit_metrics


__all__ = [
    "MainNetArguments",
    "SameStatisticsCallback",
    "SideNetArguments",
    "build_model",
    "compute_exit_metrics",
    "learns_classes",
    "load_config",
    "parameter_groups",
    "routed_exit_metrics",
    "trainer_optimizer",
]
