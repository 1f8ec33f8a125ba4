# SPDX-License-Identifier: Apache-2.0
"""Result tables as CSV, with their provenance in `provenance.csv` next to them."""

import csv
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from hf_sidenet.evaluation.provenance import command, commit, hardware, versions
from hf_sidenet.io.files import replacing


PROVENANCE = "provenance"
# Columns that are never numbers, whatever they look like.
TEXTS = {"commit", "number", "test_fingerprint", "versions"}


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `NAME.csv`, all rows with the columns of the first, and record this process as its source.

    Args:
        folder (`Path`): created if it does not exist.
        name (`str`): of the table.
        rows (`Sequence[Mapping]`):
            Fractions stay fractions, with six digits; `None` and NaN become empty cells.

    Raises:
        ValueError: there are no rows, or one has different columns.
    """
    if not rows:
        raise ValueError(f"table {name!r} must have at least one row, got none.")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{name}.csv", rows)
    origin = {
        "table": name,
        "command": command(),
        "date": date.today().isoformat(),
        "commit": commit(),
        "versions": ", ".join(f"{package} {number}" for package, number in versions("onnxruntime").items()),
        "hardware": hardware(),
    }
    path = folder / f"{PROVENANCE}.csv"
    others = [row for row in read_table(folder, PROVENANCE) if row["table"] != name] if path.exists() else []
    _write(path, sorted([*others, origin], key=lambda row: row["table"]))


def read_table(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read the rows of `NAME.csv`: numbers as `int` or `float`, empty cells as `None`, the rest as text.

    Raises:
        ValueError: there is no such file.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise ValueError(f"there must be a table {path}, got none.")
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {key: text if key in TEXTS else _value(text) for key, text in row.items()} for row in csv.DictReader(file)
        ]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(rows[0])
    different = next((row for row in rows if list(row) != columns), None)
    if different is not None:
        raise ValueError(f"every row of {path.name} must have the columns {columns}, got {list(different)}.")
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)


def _text(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _value(text: str) -> Any:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
