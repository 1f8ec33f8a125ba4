# SPDX-License-Identifier: Apache-2.0
"""Tables and intervals as text."""

import math
from collections.abc import Collection, Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a terminal, with the first column left-aligned and the others right-aligned.

    Args:
        header (`Sequence[str]`): names of the columns.
        rows (`Sequence[Sequence[str]]`): one cell per column.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,), *, padded: bool = False
) -> str:
    """Format a Markdown table.

    Args:
        header (`Sequence[str]`): names of the columns.
        rows (`Sequence[Sequence[str]]`): one cell per column.
        left (`Collection[int]`, *optional*, defaults to the first): left-aligned columns; others are right-aligned.
        padded (`bool`, *optional*, defaults to `False`): pad the cells, so that the columns line up in a terminal.
    """
    # Markdown needs at least three characters here.
    widths = [max([3, *(len(line[column]) for line in (header, *rows) if padded)]) for column in range(len(header))]
    rule = [
        ":" + "-" * (width - 1) if column in left else "-" * (width - 1) + ":" for column, width in enumerate(widths)
    ]
    lines = [header, rule, *rows]
    if padded:
        lines = [
            [
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in lines
        ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval_text(
    value: float | None, low: float | None, high: float | None, *, scale: float = 1.0, digits: int = 2
) -> str:
    """Format a value with its interval, `"84.00 [82.10, 86.00]"`; without one, the value alone; without both, a dash.

    Args:
        value (`float`, *optional*): the value; `None` or NaN if missing, also for the next two.
        low (`float`, *optional*): lower bound.
        high (`float`, *optional*): upper bound.
        scale (`float`, *optional*, defaults to 1.0): factor, 100 for percentages.
        digits (`int`, *optional*, defaults to 2): number of decimals.
    """

    def shown(number: float) -> str:
        # Adding 0 turns -0.0, which prints as "-0.00", into 0.
        return f"{round(scale * number, digits) + 0.0:.{digits}f}"

    if value is None or math.isnan(value):
        return "–"
    if low is None or high is None or math.isnan(low):
        return shown(value)
    return f"{shown(value)} [{shown(low)}, {shown(high)}]"


def after_block(exit_layer: int, num_blocks: int | None = None) -> str:
    """Return where a SideNet sits, for the column "after block" of a table.

    Args:
        exit_layer (`int`): number of blocks before it; 0 for the input.
        num_blocks (`int`, *optional*): number of blocks of the MainNet.
    """
    if exit_layer == 0:
        return "input"
    return str(exit_layer) if num_blocks is None else f"{exit_layer} of {num_blocks}"
