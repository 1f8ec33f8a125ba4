# SPDX-License-Identifier: Apache-2.0
"""Accuracy against compute, as tables and figures."""

from .curves import DEFAULT_THRESHOLDS, CurvePoint, fixed_points, format_thresholds, sweep, table, write_csv
from .plots import plot_accuracy_cost


__all__ = [
    "DEFAULT_THRESHOLDS",
    "CurvePoint",
    "fixed_points",
    "format_thresholds",
    "plot_accuracy_cost",
    "sweep",
    "table",
    "write_csv",
]
