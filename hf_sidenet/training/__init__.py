# SPDX-License-Identifier: Apache-2.0
"""Training with the stock `Trainer`."""

from .trainer_metrics import compute_exit_metrics


__all__ = ["compute_exit_metrics"]
