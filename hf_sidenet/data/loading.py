# SPDX-License-Identifier: Apache-2.0
"""Train, validation and test rows, from files or from a data set, with labels that are there."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from ..models.modalities import IMAGE
from ..optional import require
from .classes import spelled
from .columns import Columns, find_columns, is_image, sample_cells
from .reading import read_data_set, read_file


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

SPLITS = ("train", "validation", "test")
ALIASES = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}
TABLES = (".csv", ".tsv")
# As texts, like the cells of a table.
HIDDEN = {"-1", None}


def load_splits(
    *,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    files: dict[str, str | PathLike] | None = None,
    header: bool = True,
    text_columns: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Sequence[str] = SPLITS,
    required: Sequence[str] = (),
) -> "tuple[dict[str, Dataset], Columns]":
    """The rows of each split, and where their inputs and classes are.

    Args:
        dataset_name (`str`, *optional*): data set on the Hub, or its local folder. Its validation rows may also be
            called valid, dev or val.
        dataset_config (`str`, *optional*): its configuration, as `"sst2"` of glue.
        files (`dict[str, str]`, *optional*): instead of `dataset_name`, for any of train, validation and test a csv,
            tsv, json, jsonl or parquet file, or a folder with one sub-folder of pictures per class. The kinds may
            differ. Every cell of a csv or tsv file is a text; quotation marks in a tsv file are part of it.
        header (`bool`, *optional*, defaults to `True`): whether the first line of csv and tsv files has the names of
            the columns. Else these are `text_columns`, by default `"text"`, then `label_column`, by default `"label"`.
        text_columns (`Sequence[str]`, *optional*): see [`find_columns`], as for the next two.
        image_column (`str`, *optional*): the column with images, or with paths of images.
        label_column (`str`, *optional*): the column with the class.
        splits (`Sequence[str]`, *optional*): what to load where it exists; by default all three.
        required (`Sequence[str]`, *optional*): what must exist, with labels.

    Returns:
        `(splits, columns)`: the rows by split, in the order train, validation, test, and the [`Columns`] of all of
        them. A split of which every label is hidden (-1 or missing) is left out with a warning.

    Raises:
        ImportError: datasets is not installed.
        ValueError: a file is missing, empty or of another kind, a required split is missing, a column is missing or
            ambiguous, or no row has a label. The message is one line and starts with the name of the argument. What
            is missing in single rows is seen by [`prepare_rows`].
    """
    unknown = sorted({*splits, *required, *(files or {})} - set(SPLITS))
    if unknown or not (splits or required):
        raise ValueError(f"`splits`, `required` and `files` must name {', '.join(SPLITS)}, got {unknown or 'none'}.")
    wanted = [name for name in SPLITS if name in {*splits, *required}]
    if (dataset_name is None) == (not files):
        raise ValueError(
            f"give one of `dataset_name` and `{wanted[0]}_file`, got {dataset_name!r} and the files {files or 'none'}."
        )
    if dataset_name is not None:
        found = _from_data_set(dataset_name, dataset_config, header, wanted)
    elif dataset_config is not None:
        raise ValueError(f"`dataset_config` must go with `dataset_name`, got {dataset_config!r} with files.")
    else:
        names = None if header else [*(text_columns or ["text"]), label_column or "label"]
        found = {name: read_file(f"{name}_file", files[name], names) for name in wanted if name in files}
    for name in required or wanted[: not found]:
        if name not in found:
            raise ValueError(_needs(dataset_name, name, f"{name} rows, got {list(found) or 'no wanted split'}"))
    named = {"text_columns": text_columns, "image_column": image_column, "label_column": label_column}
    try:
        first = next(iter(found.values()))
        columns = find_columns(first.features, **named, sample=sample_cells(first))
    except ValueError as error:
        if dataset_name is None and header and any(Path(path).suffix in TABLES for path in files.values()):
            raise ValueError(f"{error} For a file without a header line: `header` False.") from error
        raise
    kept = {name: rows for name, rows in found.items() if _is_labelled(rows, name, columns, dataset_name, required)}
    if not kept:
        raise ValueError(_needs(dataset_name, next(iter(found)), "labels, all of them are hidden"))
    if columns.modality == IMAGE.name:
        kept = {name: _with_pictures(rows, columns.inputs[0]) for name, rows in kept.items()}
    return kept, columns


def _from_data_set(name: str, config: str | None, header: bool, wanted: Sequence[str]) -> "dict[str, Dataset]":
    if not header:
        raise ValueError(f"`header` must be True with `dataset_name`, got False with {name!r}.")
    given = read_data_set(name, config)
    called = {split: next((each for each in ALIASES[split] if each in given), None) for split in wanted}
    found = {split: given[each] for split, each in called.items() if each is not None}
    if not found:
        raise ValueError(f"`dataset_name` {name!r} must have {' or '.join(wanted)} rows, got {list(given)}.")
    return found


def _is_labelled(
    rows: "Dataset", split: str, columns: Columns, dataset_name: str | None, required: Sequence[str]
) -> bool:
    """False, with a warning, where every label is hidden.

    Raises:
        ValueError: a column is missing, or hidden labels are needed.
    """
    for name in (*columns.inputs, columns.label):
        if name not in rows.column_names:
            raise ValueError(_needs(dataset_name, split, f"a column {name!r}, got {rows.column_names} in {split}"))
    if len(rows) == 0:
        raise ValueError(_needs(dataset_name, split, f"{split} rows, got 0"))
    if not {spelled(label) for label in rows.unique(columns.label)} <= HIDDEN:
        return True
    if split == "train" or split in required:
        raise ValueError(_needs(dataset_name, split, f"labels in {split}, all of them are hidden"))
    logger.warning("The labels of the %s rows are hidden: these rows are left out.", split)
    return False


def _with_pictures(rows: "Dataset", column: str) -> "Dataset":
    """Paths become the pictures that are there."""
    if is_image(rows.features[column]):
        return rows
    return rows.cast_column(column, require("datasets", "train").Image())


def _needs(dataset_name: str | None, split: str, what: str) -> str:
    """An error that names the argument which the user gave for these rows."""
    argument = f"`{split}_file`" if dataset_name is None else f"`dataset_name` {dataset_name!r}"
    return f"{argument} must have {what}."
