# SPDX-License-Identifier: Apache-2.0
"""Numbers as shown on the page: in percent, with their spread over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any


Row = Mapping[str, Any]


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """Group rows by the values of some columns, in order of first appearance."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def values(rows: Iterable[Row], key: str) -> list[float]:
    """Return a column without its empty cells."""
    return [row[key] for row in rows if row[key] is not None]


def spread(numbers: Sequence[float], form: Callable[[float], str]) -> str:
    """Return `"87.2 ± 0.3"`, without the second part for one number; `"–"` for none."""
    if not numbers:
        return "–"
    if len(numbers) == 1:
        return form(numbers[0])
    return f"{form(mean(numbers))} ± {form(stdev(numbers)).lstrip('+')}"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """Return a difference in percentage points, with its sign."""
    return f"{100 * fraction:+.2f}"


def share(fraction: float) -> str:
    return f"{fraction:.3f}"


def column(rows: Iterable[Row], key: str, form: Callable[[float], str] = share) -> str:
    """Return mean and spread of a column."""
    return spread(values(rows, key), form)


def interval(row: Row) -> str:
    """Return `"-0.12 [-0.40, +0.15]"` in points."""
    return f"{100 * row['difference']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with the first column left-aligned."""
    lines = [list(header), [":--", *["--:"] * (len(header) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seeds(rows: Iterable[Row]) -> str:
    """Return the number of different seeds."""
    return str(len({row["seed"] for row in rows}))
