# SPDX-License-Identifier: Apache-2.0
"""Tables and intervals as text."""

import math
from collections.abc import Collection, Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: columns of equal width, the first to the left, the others to the right.

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
    """A table of Markdown.

    Args:
        header (`Sequence[str]`): names of the columns.
        rows (`Sequence[Sequence[str]]`): one cell per column.
        left (`Collection[int]`, *optional*, defaults to the first): columns aligned to the left, not to the right.
        padded (`bool`, *optional*, defaults to `False`): pad the cells, so that a terminal shows a table too.
    """
    # A rule of Markdown has three signs at least.
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
    """`"84.00 [82.10, 86.00]"`, the value alone where there is no interval, a dash where there is no value.

    Args:
        value (`float`, *optional*): `None` or NaN for none, as for the next two.
        low (`float`, *optional*): lower end.
        high (`float`, *optional*): upper end.
        scale (`float`, *optional*, defaults to 1.0): 100 for percent.
        digits (`int`, *optional*, defaults to 2): after the point.
    """

    def shown(number: float) -> str:
        # Adding 0 makes -0.0, which prints as "-0.00", a plain 0.
        return f"{round(scale * number, digits) + 0.0:.{digits}f}"

    if value is None or math.isnan(value):
        return "–"
    if low is None or high is None or math.isnan(low):
        return shown(value)
    return f"{shown(value)} [{shown(low)}, {shown(high)}]"
