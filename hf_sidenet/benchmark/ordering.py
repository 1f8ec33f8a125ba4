# SPDX-License-Identifier: Apache-2.0
"""The orders in which the same rows come, and their batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..inference.rows import Row
from ..inference.runner import LOOKAHEAD


# With fewer rows per batch, fewer rows are enough for a median, and more would take most of the time.
MAX_BATCHES = 128


@dataclass(frozen=True, eq=False)
class Batches:
    """The same rows in two orders.

    Args:
        mixed (`list[list[Row]]`): as they came.
        bucketed (`list[list[Row]]`): sorted by length within a window.
    """

    mixed: list[list[Row]]
    bucketed: list[list[Row]]

    def of(self, bucketed: bool) -> list[list[Row]]:
        """Those of one order."""
        return self.bucketed if bucketed else self.mixed


def cut(rows: Sequence[Row], batch_size: int, max_batches: int = MAX_BATCHES) -> Batches:
    """Batches of the first rows, in both orders.

    Args:
        rows (`Sequence[Row]`): in mixed order.
        batch_size (`int`): rows per batch; the last may be smaller.
        max_batches (`int`, *optional*, defaults to 128): rows beyond these batches are left out.
    """
    rows = list(rows[: max_batches * batch_size])
    ordered = by_length(rows, LOOKAHEAD * batch_size)
    return Batches(
        *([order[i : i + batch_size] for i in range(0, len(order), batch_size)] for order in (rows, ordered))
    )


def by_length(rows: Sequence[Row], window: int) -> list[Row]:
    """Rows as the runner orders them: sorted by length within each window, up and down by turns.

    Args:
        rows (`Sequence[Row]`): in mixed order.
        window (`int`): rows that are read ahead.
    """
    ordered = []
    for number, start in enumerate(range(0, len(rows), window)):
        part = sorted(rows[start : start + window], key=lambda row: row.length)
        ordered += part[::-1] if number % 2 else part
    return ordered
