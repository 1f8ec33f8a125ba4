# SPDX-License-Identifier: Apache-2.0
"""Accuracy against compute: tables, figures and a report."""

from .bootstrap import Interval, bootstrap_intervals
from .curves import DEFAULT_THRESHOLDS, CurvePoint, fixed_points, format_thresholds, sweep, table, write_csv
from .exit_plots import plot_confidences, plot_exit_shares, plot_reliability, save_figures
from .exits import EvaluatedPoint, ExitEvaluation
from .plots import plot_accuracy_cost, plot_accuracy_cost_bands, plot_comparison
from .provenance import provenance
from .quality import CalibrationError, ExitQuality
from .recalls import ClassRecall, class_recalls
from .report import ExitReport, cheapest


__all__ = [
    "DEFAULT_THRESHOLDS",
    "CalibrationError",
    "ClassRecall",
    "CurvePoint",
    "EvaluatedPoint",
    "ExitEvaluation",
    "ExitQuality",
    "ExitReport",
    "Interval",
    "bootstrap_intervals",
    "cheapest",
    "class_recalls",
    "fixed_points",
    "format_thresholds",
    "plot_accuracy_cost",
    "plot_accuracy_cost_bands",
    "plot_comparison",
    "plot_confidences",
    "plot_exit_shares",
    "plot_reliability",
    "provenance",
    "save_figures",
    "sweep",
    "table",
    "write_csv",
]
