# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself, in words, in metadata and as JSON."""

from .card import FIGURES, checkpoint_card
from .metadata import CURRENCIES, TAGS, describe, eval_results, hub_id
from .report_file import load_report, read_report_file, report_json


__all__ = [
    "CURRENCIES",
    "FIGURES",
    "TAGS",
    "checkpoint_card",
    "describe",
    "eval_results",
    "hub_id",
    "load_report",
    "read_report_file",
    "report_json",
]
