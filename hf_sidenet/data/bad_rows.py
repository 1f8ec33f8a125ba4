# SPDX-License-Identifier: Apache-2.0
"""Rows that nothing can be made of: without a text or a label, or with a picture that cannot be read."""

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..optional import require
from .classes import spelled
from .columns import Columns, is_image, unformatted


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
    wrong: dict[int, str] = {}
    for name in columns.inputs:
        problems = _texts(rows, name) if columns.is_text else _pictures(rows, name)
        wrong |= dict(problems)
    if columns.label in rows.column_names:
        labels = rows.with_format(None).select_columns(columns.label)[:][columns.label]
        wrong |= {i: f"has no label in {columns.label!r}" for i, label in enumerate(labels) if spelled(label) is None}
    if not wrong:
        return rows, 0
    if not skip or len(wrong) == len(rows):
        shown = [f"row {i + 1:,} {what}" for i, what in sorted(wrong.items())[:SHOWN]]
        advice = "" if len(wrong) == len(rows) else " `skip_bad_rows` leaves them out."
        kind = "text" if columns.is_text else "picture"
        raise ValueError(
            f"`{split}` must have a {kind} and a label in every row, but {'; '.join(shown)}: {len(wrong):,} of "
            f"{len(rows):,} rows in all.{advice}"
        )
    return rows.select([i for i in range(len(rows)) if i not in wrong]), len(wrong)


def _texts(rows: "Dataset", name: str) -> Iterator[tuple[int, str]]:
    for i, text in enumerate(rows.with_format(None).select_columns(name)[:][name]):
        if text is None:
            yield i, f"has no text in {name!r}"


def _pictures(rows: "Dataset", name: str) -> Iterator[tuple[int, str]]:
    if not is_image(rows.features[name]):
        return
    stored = (
        rows.with_format(None).select_columns(name).cast_column(name, require("datasets", "train").Image(decode=False))
    )
    for i, row in enumerate(stored):
        what = _unreadable(row[name])
        if what is not None:
            yield i, what


def _unreadable(stored: dict[str, Any] | None) -> str | None:
    """What is wrong with a picture as it is stored."""
    pillow = require("PIL.Image", "vision")
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        return "has no picture"
    source = stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"])
    try:
        with pillow.open(source) as picture:
            picture.load()
    # Decoders raise many kinds.
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        EOFError,
        OverflowError,
        pillow.DecompressionBombError,
    ) as error:
        file = "" if stored["path"] is None else f" {stored['path']!r}"
        # PIL names the file, or the buffer that it read.
        reason = "no picture" if isinstance(error, pillow.UnidentifiedImageError) else " ".join(str(error).split())
        return f"has a picture{file} that cannot be read ({reason})"
    return None
