# SPDX-License-Identifier: Apache-2.0
"""Rows as they are in one file, in one folder of pictures, or in a data set."""

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..optional import require


if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
OPENED = {"encoding": "utf-8-sig", "newline": ""}
# Only an empty cell is missing: "null" and "NA" are texts that people write.
TEXT_CELLS = {"keep_default_na": False, "na_values": [""]}
TABLES = (".csv", ".tsv")


def read_data_set(name: str, config: str | None) -> "dict[str, Dataset]":
    """Every split of a data set on the Hub, or of a folder that `load_dataset` reads or `save_to_disk` wrote.

    Raises:
        ImportError: datasets is not installed.
        ValueError: it cannot be read.
    """
    datasets = require("datasets", "train")
    with _one_line_errors(f"`dataset_name` {name!r} could not be read"):
        if (Path(name) / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(name))
        return dict(datasets.load_dataset(name, config, **_folder_tables(Path(name))))


def read_file(argument: str, path: str | os.PathLike, names: Sequence[str] | None = None) -> "Dataset":
    """The rows of one csv, tsv, json, jsonl or parquet file, or of a folder with one sub-folder of pictures per class.

    Args:
        argument (`str`): what the file is called in errors, as `"train_file"`.
        path (`str`): the file or the folder.
        names (`Sequence[str]`, *optional*): of the columns, for a csv or tsv file without a header line.

    Raises:
        ImportError: datasets is not installed.
        ValueError: the file does not exist, is empty, is of another kind, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"`{argument}` must be a file or a folder of pictures, got {str(path)!r}, which is missing.")
    suffix = path.suffix.lower()
    if path.is_dir():
        reader, pattern, options = "imagefolder", f"{glob.escape(str(path))}/**", _folder_options(argument, path)
    elif suffix in READERS:
        reader, pattern, options = READERS[suffix], glob.escape(str(path)), {}
    else:
        raise ValueError(f"`{argument}` must be a folder of pictures or one of {sorted(READERS)}, got {str(path)!r}.")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"`{argument}` must have rows, got {str(path)!r}, which is empty.")
    if names is not None and reader != "csv":
        raise ValueError(f"`header` must be True where `{argument}` is no csv or tsv file, got {str(path)!r}.")
    if reader == "csv":
        options = _table_options(argument, path, names)
    with _one_line_errors(f"`{argument}` {str(path)!r} could not be read"):
        return require("datasets", "train").load_dataset(reader, data_files={"train": pattern}, **options)["train"]


def _folder_tables(folder: Path) -> dict[str, Any]:
    """Options for a folder of csv or of tsv files; none for other folders."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in TABLES)
    if len({path.suffix.lower() for path in files}) != 1 or (folder / "README.md").exists():
        return {}
    # Quotation marks are text in a tsv file.
    options = {"quoting": csv.QUOTE_NONE} if files[0].suffix.lower() == ".tsv" else {}
    headers = []
    for path in files:
        with open(path, **OPENED) as file:
            delimiter = {"delimiter": "\t"} if options else {}
            headers.append(next((row for row in csv.reader(file, **options, **delimiter) if row), []))
    # Files with other columns than the first are refused by datasets itself.
    return (
        {**options, **_as_texts(headers[0], header=0)} if all(header == headers[0] for header in headers) else options
    )


def _as_texts(columns: Sequence[str], header: int | None) -> dict[str, Any]:
    """Every cell is a text: "01" is no number, "true" no truth value. Columns without a name, or with that of another,
    get one."""
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
        raise ValueError(f"`{argument}` must have one sub-folder per class, got {str(path)!r}, which has none.")
    # By itself datasets gives no labels to pictures of one class only.
    return {"drop_labels": False}


def _table_options(argument: str, path: Path, names: Sequence[str] | None) -> dict[str, Any]:
    tabs = path.suffix.lower() == ".tsv"
    options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    with _one_line_errors(f"`{argument}` {str(path)!r} could not be read"), open(path, **OPENED) as file:
        lines = (row for row in csv.reader(file, **options) if row)
        columns = list(names) if names is not None else next(lines, [])
        first = next(lines, None)
    if first is None:
        raise ValueError(f"`{argument}` must have rows, got {str(path)!r} with a header line only.")
    # pandas would take the first cells of longer rows for an index, and shift the others.
    if len(first) != len(columns):
        raise ValueError(
            f"`{argument}` must have a cell for each of the columns {columns}, got {len(first)} in the first row."
        )
    return {**options, **_as_texts(columns, header=0 if names is None else None)}


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    errors = require("datasets.exceptions", "train")
    try:
        yield
    except (OSError, RuntimeError, ValueError, csv.Error, errors.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{what}: {reason[:500]}") from error
