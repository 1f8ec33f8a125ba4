# SPDX-License-Identifier: Apache-2.0
"""What rows were taken for, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from .tables import aligned


# A table of more would be longer than the rest.
MOST_CLASSES = 20


def rows_text(data: Mapping[str, Any], classes: Mapping[str, Any], repeated: Mapping[str, Any]) -> str:
    """Columns, mapping, repeated rows and rows per class, of a report's `data`, `classes` and `repeated_rows`."""
    splits = {name: split for name, split in data.items() if isinstance(split, Mapping)}
    columns = next((split["columns"] for split in splits.values() if split.get("columns")), None)
    parts = []
    if columns is not None:
        inputs = " and ".join(map(repr, columns["inputs"]))
        unused = f" Not read: {', '.join(map(repr, columns['unused']))}." if columns["unused"] else ""
        parts.append(f"Rows are read from {inputs}, their classes from {columns['label']!r}.{unused}")
    spelled = _spelled(classes)
    shown = ", ".join(f"{name} → {index}" for index, name in list(enumerate(spelled))[:MOST_CLASSES])
    more = f", … ({len(spelled):,} in all)" if len(spelled) > MOST_CLASSES else ""
    parts.append(f"Classes are taken {classes['how']}: {shown}{more}.")
    if classes["trusted"]:
        parts.append("They were not held against the MainNet's answers.")
    for name, split in splits.items():
        if split.get("num_bad_rows_left_out"):
            parts.append(f"Bad {name} rows that were left out: {split['num_bad_rows_left_out']:,}.")
    if repeated["num_repeated"]:
        parts.append(
            f"{repeated['num_repeated']:,} of {repeated['num_rows']:,} certification rows say what a training or "
            f"design row says ({repeated['num_repeated'] / repeated['num_rows']:.1%}; of fresh rows "
            f"{repeated['expected']:.1%} are expected to)."
        )
    counted = {name: split["rows_per_class"] for name, split in splits.items() if "rows_per_class" in split}
    return "\n".join([" ".join(parts), "", _counts(spelled, classes["names"], counted)])


def _spelled(classes: Mapping[str, Any]) -> list[str]:
    """How the data call each class, with the MainNet's name where that is another."""
    found: list[list[str]] = [[] for _ in classes["names"]]
    for label, index in classes["labels"].items():
        found[index].append(label)
    return [
        name if labels in ([], [name]) else f"{' or '.join(labels)} ({name})"
        for labels, name in zip(found, classes["names"], strict=True)
    ]


def _counts(spelled: Sequence[str], names: Sequence[str], counted: Mapping[str, Sequence[int]]) -> str:
    """Rows per class, or, of many classes, how many there are at least and at most."""
    if len(names) <= MOST_CLASSES:
        header = ["rows of class", *counted]
        rows = [[spelled[i], *(f"{counts[i]:,}" for counts in counted.values())] for i in range(len(names))]
        return aligned(header, rows)
    header = ["split", "fewest rows of a class", "most", "classes without rows"]
    rows = [
        [name, f"{min(counts):,}", f"{max(counts):,}", f"{sum(count == 0 for count in counts):,}"]
        for name, counts in counted.items()
    ]
    return aligned(header, rows)
