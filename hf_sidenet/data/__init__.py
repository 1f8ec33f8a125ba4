# SPDX-License-Identifier: Apache-2.0
"""Labeled texts and images, from files or data sets, as model inputs."""

from .classes import ClassMap
from .columns import Columns, find_columns
from .labels import align_labels, find_classes, number_labels
from .loading import SPLITS, load_splits
from .preparing import collator, load_processor, prepare, prepare_splits, processor_in


__all__ = [
    "SPLITS",
    "ClassMap",
    "Columns",
    "align_labels",
    "collator",
    "find_classes",
    "find_columns",
    "load_processor",
    "load_splits",
    "number_labels",
    "prepare",
    "prepare_splits",
    "processor_in",
]
