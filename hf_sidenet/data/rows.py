# SPDX-License-Identifier: Apache-2.0
"""Rows as a model takes them, and what they are: so that equal rows are seen, and features belong to their rows."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from transformers import PretrainedConfig

from ..io.fingerprint import fingerprint_rows
from ..models.errors import ArgumentError
from ..models.modalities import MODALITIES, Modality
from ..models.tasks import NO_LABEL, Task, label_names, task_of
from .classes import ClassMap, indexed_classes, moved_names
from .columns import Columns, find_columns, sample_cells, unformatted
from .formats import MapStyle, Processor, RowFormat, format_of
from .labels import find_classes, number_labels
from .preparing import prepare, without_bad_rows


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Args:
        dataset (map-style data set): of dicts with the model's inputs and `labels`.
        contents (`list[str]`): what each row says, in hashes; see [`content_keys`]. Of rows that are no raw texts,
            what they are.
        fingerprint (`str`): stands for inputs, preprocessing and labels.
        labels (`list[int]`): index of each row's class, -100 where it has none.
        collate_fn (`Callable`): makes a batch of a list of rows.
        classes ([`ClassMap`]): what the labels mean.
        columns ([`Columns`], *optional*): that raw rows were read from.
        num_left_out (`int`): bad rows that are not among these.
    """

    dataset: MapStyle
    contents: list[str]
    fingerprint: str
    labels: list[int]
    collate_fn: Callable[[list[Any]], Mapping[str, Any]]
    classes: ClassMap
    columns: Columns | None = None
    num_left_out: int = 0

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def has_labels(self) -> bool:
        """Whether any row has a label."""
        return any(label != NO_LABEL for label in self.labels)

    def about(self) -> dict[str, Any]:
        """What a report says of them."""
        counts = Counter(self.labels)
        return {
            "num_rows": len(self),
            "num_bad_rows_left_out": self.num_left_out,
            "has_labels": self.has_labels,
            "rows_per_class": [counts[index] for index in range(len(self.classes.names))],
            "columns": None
            if self.columns is None
            else {
                "inputs": list(self.columns.inputs),
                "label": self.columns.label,
                "unused": list(self.columns.unused),
            },
            "fingerprint": self.fingerprint,
        }


def prepare_rows(
    splits: "Mapping[str, Dataset] | Mapping[str, MapStyle]",
    config: PretrainedConfig,
    processor: Processor | None,
    *,
    modality: Modality,
    columns: Columns | None = None,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
) -> dict[str, Rows]:
    """Bring splits to rows of model inputs; those that have `input_ids` or `pixel_values` already stay as they are.

    Args:
        splits (`Mapping[str, datasets.Dataset]` or of other map-style data sets): the rows by the name of the split.
        config (`PretrainedConfig`): of the MainNet, whose classes give the order of the labels.
        processor (tokenizer or image processor, *optional*): needed for raw texts and images, and to pad texts.
        modality ([`Modality`]): what the MainNet reads; `model.modality` of a model with SideNets.
        columns ([`Columns`], *optional*): of raw splits; by default they are looked for.
        max_length (`int`, *optional*): longer texts are cut, in tokens.
        labels (`Sequence[str]`, *optional*):
            What raw rows call the MainNet's outputs, in their order; by default see [`match_classes`].
        skip_bad_rows (`bool`, *optional*, defaults to `False`):
            Whether raw rows without a text or a label, or with a picture that cannot be read, are left out; else they
            are an error.

    Raises:
        ValueError: a split is no data set, a processor is needed and there is none, the rows are of another kind than
            the MainNet, one is bad, or a label is no class of the MainNet.
    """
    name, row_format = modality.main_inputs[0], format_of(modality)
    for split, rows in splits.items():
        _check_container(split, rows, name)
    # [`_check_container`] takes no other data sets without model inputs.
    raw = {split: cast("Dataset", rows) for split, rows in splits.items() if name not in _first(rows)}
    if (raw or row_format.needs_processor) and processor is None:
        raise ArgumentError("processor", f"must be given for rows without {name!r} and to pad texts, got None")
    prepared: dict[str, MapStyle] = {**splits}
    left_out, classes = dict.fromkeys(splits, 0), indexed_classes(label_names(config))
    if labels is not None and len(raw) < len(splits):
        raise ArgumentError(
            "labels",
            f"must be None for rows that have indices of classes already, got {list(labels)}",
        )
    if raw:
        first = next(iter(raw.values()))
        columns = columns or find_columns(first.features, sample=sample_cells(first))
        if columns.modality != modality.name:
            held = MODALITIES[columns.modality].plural
            raise ValueError(f"the MainNet reads {modality.plural}, but the rows hold {held}: {columns.inputs}.")
        for split, rows in raw.items():
            raw[split], left_out[split] = without_bad_rows(rows, split, columns, skip=skip_bad_rows)
        labeled = {split: rows for split, rows in raw.items() if columns.label in rows.column_names}
        if labeled:
            classes = find_classes(labeled, columns.label, config, labels=labels)
        for split, rows in raw.items():
            numbered = number_labels(rows, columns.label, classes) if split in labeled else rows
            prepared[split] = prepare(numbered, columns, cast(Processor, processor), config, max_length=max_length)
    collate = row_format.collator(processor)
    for split in set(splits) - set(raw):
        _check_order(splits[split], split, label_names(config))
    made = {
        split: _rows(rows, split, raw.get(split), columns, processor, row_format, collate, classes)
        for split, rows in prepared.items()
    }
    task = task_of(config)[0]
    for split, rows in made.items():
        _check_indices(rows, split, task, config)
    return {split: replace(rows, num_left_out=left_out[split]) for split, rows in made.items()}


def _check_container(split: str, rows: Any, name: str) -> None:
    """Refuse what is no data set, with what makes one of it."""
    if isinstance(rows, str | os.PathLike):
        instead = "of a file `datasets.load_dataset(...)`, or the file itself to the command `hf-sidenet`"
    elif isinstance(rows, Mapping) and rows and hasattr(next(iter(rows.values())), "features"):
        instead = f"one of its splits, as `rows[{next(iter(rows))!r}]`"
    elif isinstance(rows, Mapping):
        instead = "`datasets.Dataset.from_dict(rows)`"
    elif hasattr(rows, "columns"):
        instead = "`datasets.Dataset.from_pandas(rows)`"
    elif not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        instead = "`datasets.Dataset.from_list(list(rows))`, since rows are read more than once"
    elif len(rows) and not (isinstance(_first(rows), Mapping) and (name in _first(rows) or hasattr(rows, "features"))):
        instead = f"of dicts `datasets.Dataset.from_list(rows)`, or dicts with {name!r}"
    else:
        return
    raise ArgumentError(split, f"must be a `datasets.Dataset`, got a {type(rows).__name__}. Give {instead}")


def _first(rows: Any) -> Any:
    """The first row, which says what kind they are; nothing of none."""
    return (unformatted(rows) if hasattr(rows, "with_format") else rows)[0] if len(rows) else {}


def _check_order(rows: Any, split: str, own: Sequence[str]) -> None:
    """Indices are taken as they are: where the data name them, it must not be as other outputs of the MainNet."""
    feature = (getattr(rows, "features", None) or {}).get("labels")
    names = getattr(feature, "names", None) or []
    if moved_names(names, own):
        raise ArgumentError(
            split,
            f"must have `labels` in the order of the MainNet's outputs, {list(own)}, got a "
            f"ClassLabel in another order, {list(names)}. `align_labels` brings raw rows to "
            "the MainNet's order",
        )


def _check_indices(rows: Rows, split: str, task: Task, config: PretrainedConfig) -> None:
    num_outputs = task.num_outputs(config)
    row = task.wrong_row(rows.labels, num_outputs)
    if row is not None:
        raise ArgumentError(
            split,
            f"must have `labels` in [0, {num_outputs}), or {NO_LABEL} where there is none, "
            f"got {rows.labels[row]} in row {row + 1:,}",
        )


def _rows(
    prepared: Any,
    split: str,
    raw: Any,
    columns: Columns | None,
    processor: Any,
    row_format: RowFormat,
    collate: Callable,
    classes: ClassMap,
) -> Rows:
    keys, contents, settings = row_format.keys(prepared, raw, columns, processor)
    how = json.dumps(settings, sort_keys=True, default=str) if settings else ""
    labels = [_as_index(label, split, row) for row, label in enumerate(_labels(prepared, raw, columns), 1)]
    about = [fingerprint_rows(keys), json.dumps(labels), how]
    digest = hashlib.blake2b("\n".join(about).encode(), digest_size=16)
    return Rows(prepared, contents, digest.hexdigest(), labels, collate, classes, None if raw is None else columns)


def _as_index(label: Any, split: str, row: int) -> int:
    try:
        index = int(label)
        # Not 0.7, which `int` makes 0.
        whole = index == float(label)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ArgumentError(
            split,
            "must have `labels` that are indices of classes, or -100 where there is none, "
            f"got {label!r} in row {row:,}",
        )
    return index


def _labels(prepared: Any, raw: Any, columns: Columns | None) -> list:
    names = getattr(prepared, "column_names", None) or []
    if "labels" in names:
        return prepared.with_format(None)["labels"]
    if raw is not None and columns is not None and columns.label in names:
        return prepared.with_format(None)[columns.label]
    return [row.get("labels", NO_LABEL) for row in (prepared[i] for i in range(len(prepared)))]
