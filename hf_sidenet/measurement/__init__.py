# SPDX-License-Identifier: Apache-2.0
"""Collect the logits of every exit on a data set once, and measure what answers cost."""

from .costs import CURRENCIES, ExitCosts, measure_costs
from .metrics import (
    PAPER_BINS,
    STANDARD_BINS,
    ReliabilityBin,
    accuracy,
    check_temperatures,
    correct_rows,
    expected_calibration_error,
    reliability_bins,
    replay,
)
from .records import ExitRecords, collect


__all__ = [
    "CURRENCIES",
    "PAPER_BINS",
    "STANDARD_BINS",
    "ExitCosts",
    "ExitRecords",
    "ReliabilityBin",
    "accuracy",
    "check_temperatures",
    "collect",
    "correct_rows",
    "expected_calibration_error",
    "measure_costs",
    "reliability_bins",
    "replay",
]
