# SPDX-License-Identifier: Apache-2.0
"""Real rows for a benchmark, in mixed order."""

from typing import Any

import torch

from ..data.rows import Rows
from ..inference.reading import RowReader
from ..inference.rows import Row


def read_rows(stages: Any, rows: Rows, count: int, seed: int) -> tuple[list[Row], list[int]]:
    """Some rows of a data set, in random order, and their classes.

    Args:
        stages ([`Stages`] or the like): that they are for.
        rows ([`Rows`]): with labels.
        count (`int`): how many, all where there are no more.
        seed (`int`): of the choice and the order.

    Raises:
        ValueError: a row cannot be answered or has no label.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()[:count]
    raw = [rows.dataset[i] for i in order]
    labels = [int(row.get("labels", -100)) for row in raw]
    if -100 in labels:
        raise ValueError("every row must have a label, got one without.")
    reader = RowReader(stages)
    found = reader.read(range(len(raw)), raw, [()] * len(raw))
    for row in found:
        if not isinstance(row, Row):
            raise row
    return found, labels
