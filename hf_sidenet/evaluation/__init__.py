# SPDX-License-Identifier: Apache-2.0
"""Accuracy against compute, as tables, figures and a report."""

from .curves import DEFAULT_THRESHOLDS, CurvePoint, fixed_points, format_thresholds, sweep, table, write_csv
from .plots import plot_accuracy_cost, plot_comparison
from .provenance import provenance
from .report import ExitReport, cheapest


__all__ = [
    "DEFAULT_THRESHOLDS",
    "CurvePoint",
    "ExitReport",
    "cheapest",
    "fixed_points",
    "format_thresholds",
    "plot_accuracy_cost",
    "plot_comparison",
    "provenance",
    "sweep",
    "table",
    "write_csv",
]
