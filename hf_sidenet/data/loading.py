# SPDX-License-Identifier: Apache-2.0
"""Load train, validation and test rows with labels, from files or from a data set."""

import csv
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transformers.utils import logging

from ..models.errors import ArgumentError
from ..models.modalities import IMAGE
from ..optional import require
from .classes import spelled
from .columns import Columns, find_columns, is_image, sample_cells


if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# Only an empty cell is missing: "null" and "NA" can be real texts.
TEXT_CELLS = {"keep_default_na": False, "na_values": [""]}
TABLES = (".csv", ".tsv")

logger = logging.get_logger(__name__)
SPLITS = ("train", "validation", "test")
ALIASES = {"train": ("train",), "validation": ("validation", "valid", "dev", "val"), "test": ("test",)}
# As text, like the cells of a table.
HIDDEN = {"-1", None}


def read_data_set(name: str, config: str | None) -> "dict[str, Dataset]":
    """Read every split of a data set on the Hub, or of a folder for `load_dataset` or from `save_to_disk`.

    Raises:
        ImportError: datasets is not installed.
        ValueError: it cannot be read.
    """
    datasets = require("datasets", "train")
    with _one_line_errors("dataset_name", f"{name!r} could not be read"):
        if (Path(name) / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(name))
        return dict(datasets.load_dataset(name, config, **_folder_tables(Path(name))))


def read_file(argument: str, path: str | os.PathLike, names: Sequence[str] | None = None) -> "Dataset":
    """Read the rows of a csv, tsv, json, jsonl or parquet file, or of a folder with one subfolder of images per class.

    Args:
        argument (`str`): name of the argument in errors, such as `"train_file"`.
        path (`str`): the file or folder.
        names (`Sequence[str]`, *optional*): names of the columns, for a csv or tsv file without a header.

    Raises:
        ImportError: datasets is not installed.
        ValueError: the file does not exist, is empty, has another type, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ArgumentError(
            argument, f"must be a file or a folder of pictures, got {str(path)!r}, which does not exist"
        )
    suffix = path.suffix.lower()
    if path.is_dir():
        reader, pattern, options = "imagefolder", f"{glob.escape(str(path))}/**", _folder_options(argument, path)
    elif suffix in READERS:
        reader, pattern, options = READERS[suffix], glob.escape(str(path)), {}
    else:
        raise ArgumentError(argument, f"must be a folder of pictures or one of {sorted(READERS)}", str(path))
    if path.is_file() and path.stat().st_size == 0:
        raise ArgumentError(argument, f"must have rows, got {str(path)!r}, which is empty")
    if names is not None and reader != "csv":
        raise ArgumentError("no_header", f"must not be given if `{argument}` is not a csv or tsv file", str(path))
    if reader == "csv":
        options = _table_options(argument, path, names)
    with _one_line_errors(argument, f"{str(path)!r} could not be read"):
        return require("datasets", "train").load_dataset(reader, data_files={"train": pattern}, **options)["train"]


def open_text(path: str | os.PathLike) -> TextIO:
    """Open a text file from a spreadsheet, with or without a byte order mark."""
    return open(path, encoding="utf-8-sig", newline="")


def _folder_tables(folder: Path) -> dict[str, Any]:
    """Return options for a folder of csv or tsv files; none for other folders."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in TABLES)
    if len({path.suffix.lower() for path in files}) != 1 or (folder / "README.md").exists():
        return {}
    # In a tsv file, quotation marks are text.
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if files[0].suffix.lower() == ".tsv" else {}
    headers = []
    for path in files:
        with open_text(path) as file:
            delimiter: dict[str, Any] = {"delimiter": "\t"} if options else {}
            headers.append(next((row for row in csv.reader(file, **options, **delimiter) if row), []))
    # datasets itself rejects files whose columns differ from the first.
    return (
        {**options, **_as_texts(headers[0], header=0)} if all(header == headers[0] for header in headers) else options
    )


def _as_texts(columns: Sequence[str], header: int | None) -> dict[str, Any]:
    """Return options to read every cell as text ("01" and "true" too), naming unnamed and duplicate columns."""
    datasets, names = require("datasets", "train"), []
    for number, column in enumerate(columns, 1):
        name = column if column.strip() else f"column {number}"
        while name in names:
            name += "_"
        names.append(name)
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {**TEXT_CELLS, "column_names": names, "header": header, "features": features}


def _folder_options(argument: str, path: Path) -> dict[str, Any]:
    if any(path.glob("metadata.*")):
        return {}
    if not any(child.is_dir() for child in path.iterdir()):
        raise ArgumentError(argument, f"must have one subfolder per class, got {str(path)!r}, which has none")
    # By default, datasets drops the labels if there is only one class.
    return {"drop_labels": False}


def _table_options(argument: str, path: Path, names: Sequence[str] | None) -> dict[str, Any]:
    tabs = path.suffix.lower() == ".tsv"
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    with _one_line_errors(argument, f"{str(path)!r} could not be read"), open_text(path) as file:
        lines = (row for row in csv.reader(file, **options) if row)
        columns = list(names) if names is not None else next(lines, [])
        first = next(lines, None)
    if first is None:
        raise ArgumentError(argument, f"must have rows, got {str(path)!r} with only a header line")
    # pandas would read the first cells of longer rows as an index, shifting the others.
    if len(first) != len(columns):
        raise ArgumentError(
            argument,
            f"must have a cell for each of the columns {columns}, got {len(first)} in the first row",
        )
    return {**options, **_as_texts(columns, header=0 if names is None else None)}


@contextmanager
def _one_line_errors(argument: str, what: str) -> Iterator[None]:
    errors = require("datasets.exceptions", "train")
    try:
        yield
    except (OSError, RuntimeError, ValueError, csv.Error, errors.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ArgumentError(argument, f"{what}: {reason[:500]}") from error


def load_splits(
    *,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    files: Mapping[str, str | PathLike] | None = None,
    no_header: bool = False,
    text_columns: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Sequence[str] = SPLITS,
    required: Sequence[str] = (),
) -> "tuple[dict[str, Dataset], Columns]":
    """Load the rows of each split, and find the columns of their inputs and classes.

    Args:
        dataset_name (`str`, *optional*): data set on the Hub, or its local folder. Its validation split may also be
            named valid, dev or val.
        dataset_config (`str`, *optional*): configuration of the data set, such as `"sst2"` for glue.
        files (`Mapping[str, str]`, *optional*): instead of `dataset_name`, for any of train, validation and test, a
            csv, tsv, json, jsonl or parquet file, or a folder with one subfolder of images per class. The types may
            differ. Every cell of a csv or tsv file is text; quotation marks in a tsv file are part of it.
        no_header (`bool`, *optional*, defaults to `False`): whether csv and tsv files have no header line. The columns
            are then `text_columns`, by default `"text"`, and `label_column`, by default `"label"`.
        text_columns (`Sequence[str]`, *optional*): see [`find_columns`], also for the next two.
        image_column (`str`, *optional*): column with images or image paths.
        label_column (`str`, *optional*): column with the class.
        splits (`Sequence[str]`, *optional*): splits to load if they exist; by default all three.
        required (`Sequence[str]`, *optional*): splits that must exist, with labels.

    Returns:
        `(splits, columns)`: the rows by split, in the order train, validation, test, and their common [`Columns`]. A
        split in which every label is hidden (-1 or missing) is left out with a warning.

    Raises:
        ImportError: datasets is not installed.
        ValueError: a file is missing, empty or has another type, a required split is missing, a column is missing or
            ambiguous, or no row has a label. The message is one line and starts with the name of the argument. Single
            rows are checked later, by [`prepare_rows`].
    """
    files = files or {}
    unknown = sorted({*splits, *required, *files} - set(SPLITS))
    if unknown or not (splits or required):
        raise ValueError(f"`splits`, `required` and `files` must name {', '.join(SPLITS)}, got {unknown or 'none'}.")
    wanted = [name for name in SPLITS if name in {*splits, *required}]
    if (dataset_name is None) == (not files):
        raise ValueError(
            f"pass one of `dataset_name` and `{wanted[0]}_file`, got {dataset_name!r} and the files {files or 'none'}."
        )
    if dataset_name is not None:
        found = _from_data_set(dataset_name, dataset_config, no_header, wanted)
    elif dataset_config is not None:
        raise ArgumentError("dataset_config", f"must be used with `dataset_name`, got {dataset_config!r} with files")
    else:
        names = [*(text_columns or ["text"]), label_column or "label"] if no_header else None
        found = {name: read_file(f"{name}_file", files[name], names) for name in wanted if name in files}
    for name in required or wanted[: not found]:
        if name not in found:
            raise _needs(dataset_name, name, f"{name} rows, got {list(found) or 'no wanted split'}")
    named = {"text_columns": text_columns, "image_column": image_column, "label_column": label_column}
    try:
        first = next(iter(found.values()))
        columns = find_columns(first.features, **named, sample=sample_cells(first))
    except ArgumentError as error:
        if dataset_name is None and not no_header and any(Path(path).suffix in TABLES for path in files.values()):
            raise ArgumentError(
                error.argument, error.rule, error.value, "For a file without a header line: `no_header`."
            ) from error
        raise
    kept = {name: rows for name, rows in found.items() if _is_labeled(rows, name, columns, dataset_name, required)}
    if not kept:
        raise _needs(dataset_name, next(iter(found)), "labels, but all of them are hidden")
    if columns.modality == IMAGE.name:
        kept = {name: _with_pictures(rows, columns.inputs[0]) for name, rows in kept.items()}
    return kept, columns


def _from_data_set(name: str, config: str | None, no_header: bool, wanted: Sequence[str]) -> "dict[str, Dataset]":
    if no_header:
        raise ArgumentError("no_header", "must not be given with `dataset_name`", name)
    given = read_data_set(name, config)
    called = {split: next((each for each in ALIASES[split] if each in given), None) for split in wanted}
    found = {split: given[each] for split, each in called.items() if each is not None}
    if not found:
        raise ArgumentError("dataset_name", f"{name!r} must have {' or '.join(wanted)} rows, got {list(given)}")
    return found


def _is_labeled(
    rows: "Dataset", split: str, columns: Columns, dataset_name: str | None, required: Sequence[str]
) -> bool:
    """Return whether any label is visible; warn if not.

    Raises:
        ValueError: a column is missing, or labels are hidden but needed.
    """
    for name in (*columns.inputs, columns.label):
        if name not in rows.column_names:
            raise _needs(dataset_name, split, f"a column {name!r}, got {rows.column_names} in {split}")
    if len(rows) == 0:
        raise _needs(dataset_name, split, f"{split} rows, got 0")
    if not {spelled(label) for label in rows.unique(columns.label)} <= HIDDEN:
        return True
    if split == "train" or split in required:
        raise _needs(dataset_name, split, f"labels in {split}, but all of them are hidden")
    logger.warning("The labels of the %s rows are hidden: leaving these rows out.", split)
    return False


def _with_pictures(rows: "Dataset", column: str) -> "Dataset":
    """Convert paths to images."""
    if is_image(rows.features[column]):
        return rows
    return rows.cast_column(column, require("datasets", "train").Image())


def _needs(dataset_name: str | None, split: str, what: str) -> ArgumentError:
    """Make an error that names the user's argument for these rows."""
    if dataset_name is None:
        return ArgumentError(f"{split}_file", f"must have {what}")
    return ArgumentError("dataset_name", f"{dataset_name!r} must have {what}")
