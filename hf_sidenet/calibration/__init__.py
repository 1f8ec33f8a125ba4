# SPDX-License-Identifier: Apache-2.0
"""From targets to temperatures, exit layers and thresholds, with a guarantee."""

from .calibrate import Calibration, calibrate
from .chain import Chaining, chained_records
from .evidence import check_evidence
from .ledger import count_looks, level_of_all, look_key
from .path import find_path
from .placement import CostModel, Placement, cost_model, place, records_of
from .pvalues import TESTS, betting, binomial, paired
from .repeats import RepeatedRowsError, Repeats, check_fresh, find_repeats
from .split import Split, split_rows
from .targets import TARGETS, Budget, Risk, RiskEstimate, Target, paired_differences, parse_targets
from .temperature import fit_temperature, fit_temperatures
from .thresholds import (
    PathPoint,
    Selection,
    TooFewRowsError,
    check_confidence_level,
    check_enough,
    check_targets,
    level_per_target,
    select_thresholds,
)


__all__ = [
    "TARGETS",
    "TESTS",
    "Budget",
    "Calibration",
    "Chaining",
    "CostModel",
    "PathPoint",
    "Placement",
    "RepeatedRowsError",
    "Repeats",
    "Risk",
    "RiskEstimate",
    "Selection",
    "Split",
    "Target",
    "TooFewRowsError",
    "betting",
    "binomial",
    "calibrate",
    "chained_records",
    "check_confidence_level",
    "check_enough",
    "check_evidence",
    "check_fresh",
    "check_targets",
    "cost_model",
    "count_looks",
    "find_path",
    "find_repeats",
    "fit_temperature",
    "fit_temperatures",
    "level_of_all",
    "level_per_target",
    "look_key",
    "paired",
    "paired_differences",
    "parse_targets",
    "place",
    "records_of",
    "select_thresholds",
    "split_rows",
]
