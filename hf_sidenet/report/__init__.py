# SPDX-License-Identifier: Apache-2.0
"""Description of a checkpoint: as text, as metadata and as JSON."""

from .card import FIGURES, checkpoint_card
from .metadata import CURRENCIES, TAGS, describe, eval_results, hub_id, metrics
from .report import REPORT, Found, Report


__all__ = [
    "CURRENCIES",
    "FIGURES",
    "REPORT",
    "TAGS",
    "Found",
    "Report",
    "checkpoint_card",
    "describe",
    "eval_results",
    "hub_id",
    "metrics",
]
