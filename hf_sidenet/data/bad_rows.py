# SPDX-License-Identifier: Apache-2.0
"""Rows that nothing can be made of: without a text or a label, or with a picture that cannot be read."""

from typing import TYPE_CHECKING

from .classes import spelled
from .columns import Columns, unformatted
from .formats import FORMATS


if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 5


def without_bad_rows(rows: "Dataset", split: str, columns: Columns, *, skip: bool) -> "tuple[Dataset, int]":
    """Rows that are whole, without a format, and how many were left out.

    Args:
        rows (`datasets.Dataset`): texts or pictures; every picture is decoded once.
        split (`str`): what they are called in errors.
        columns ([`Columns`]): where the inputs and the labels are; the column with labels may be missing.
        skip (`bool`): whether bad rows are left out; else they are an error.

    Raises:
        ValueError: there are bad rows, or no others.
    """
    rows = unformatted(rows)
    row_format, wrong = FORMATS[columns.modality], {}
    for name in columns.inputs:
        wrong |= dict(row_format.problems(rows, name))
    if columns.label in rows.column_names:
        labels = rows.with_format(None).select_columns(columns.label)[:][columns.label]
        wrong |= {i: f"has no label in {columns.label!r}" for i, label in enumerate(labels) if spelled(label) is None}
    if not wrong:
        return rows, 0
    if not skip or len(wrong) == len(rows):
        shown = [f"row {i + 1:,} {what}" for i, what in sorted(wrong.items())[:SHOWN]]
        advice = "" if len(wrong) == len(rows) else " `skip_bad_rows` leaves them out."
        raise ValueError(
            f"`{split}` must have a {row_format.noun} and a label in every row, but {'; '.join(shown)}: "
            f"{len(wrong):,} of {len(rows):,} rows in all.{advice}"
        )
    return rows.select([i for i in range(len(rows)) if i not in wrong]), len(wrong)
