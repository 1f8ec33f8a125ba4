# SPDX-License-Identifier: Apache-2.0
"""Labelled texts and images, from files or data sets, as inputs of a model."""

from .columns import Columns, find_columns
from .loading import SPLITS, load_splits
from .preparing import collator, load_processor, prepare, prepare_splits, processor_in


__all__ = [
    "SPLITS",
    "Columns",
    "collator",
    "find_columns",
    "load_processor",
    "load_splits",
    "prepare",
    "prepare_splits",
    "processor_in",
]
