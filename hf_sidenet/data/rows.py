# SPDX-License-Identifier: Apache-2.0
"""Rows as model inputs, with keys of their contents to recognize equal rows and match features to rows."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset
from transformers import PretrainedConfig

from ..io.fingerprint import DIGEST_SIZE, fingerprint_rows
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
        dataset (map-style data set): dicts with the model's inputs and `labels`.
        contents (`list[str]`): hashes of each row's contents: of its raw texts, see [`content_keys`], else of its
            inputs.
        fingerprint (`str`): fingerprint of inputs, preprocessing and labels.
        labels (`list[int]`): class index of each row, -100 if it has none.
        collate_fn (`Callable`): function that collates a list of rows.
        classes ([`ClassMap`]): meaning of the labels.
        columns ([`Columns`], *optional*): columns of the raw rows.
        num_left_out (`int`): number of bad rows left out.
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
        """Return the fields for a report."""
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


@dataclass(frozen=True)
class SomeRows:
    """Some rows of a split.

    Args:
        rows ([`Rows`]): the split.
        name (`str`): its name.
        which (`torch.LongTensor`, *optional*): indices of the rows, by default all.
    """

    rows: Rows
    name: str
    which: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.which is None else len(self.which)

    @property
    def dataset(self) -> MapStyle:
        """Data set of these rows."""
        if self.which is None:
            return self.rows.dataset
        return cast(MapStyle, Subset(cast(TorchDataset, self.rows.dataset), self.which.tolist()))

    @property
    def collate_fn(self) -> Callable[[list[Any]], Mapping[str, Any]]:
        """Function that collates a list of rows."""
        return self.rows.collate_fn

    @property
    def fingerprint(self) -> str:
        """Fingerprint of these rows."""
        if self.which is None:
            return self.rows.fingerprint
        digest = hashlib.blake2b(self.which.numpy().tobytes(), digest_size=DIGEST_SIZE).hexdigest()
        return f"{self.rows.fingerprint}-{digest}"

    @property
    def labels(self) -> torch.Tensor:
        """Class index of each row, -100 if it has none."""
        labels = torch.tensor(self.rows.labels)
        return labels if self.which is None else labels[self.which]

    def take(self, which: torch.Tensor) -> "SomeRows":
        """Return some of these rows.

        Args:
            which (`torch.LongTensor`): indices among these rows.
        """
        return replace(self, which=which if self.which is None else self.which[which])


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
    """Convert splits to rows of model inputs; splits that already have `input_ids` or `pixel_values` are kept.

    Args:
        splits (`Mapping[str, datasets.Dataset]` or of other map-style data sets): rows by split.
        config (`PretrainedConfig`): config of the MainNet, whose classes define the order of the labels.
        processor (tokenizer or image processor, *optional*): needed for raw texts and images, and to pad texts.
        modality ([`Modality`]): modality of the MainNet; `model.modality` of a model with SideNets.
        columns ([`Columns`], *optional*): columns of raw splits; found automatically by default.
        max_length (`int`, *optional*): tokens at which texts are truncated.
        labels (`Sequence[str]`, *optional*):
            Names of the MainNet's outputs in raw rows, in order; by default see [`match_classes`].
        skip_bad_rows (`bool`, *optional*, defaults to `False`):
            Leave out raw rows without a text, a readable image or a label, instead of raising an error.

    Raises:
        ValueError: a split is not a data set, a needed processor is missing, the modality is not the MainNet's, a row
            is bad, or a label is not a class of the MainNet.
    """
    name, row_format = modality.main_inputs[0], format_of(modality)
    for split, rows in splits.items():
        _check_container(split, rows, name)
    # [`_check_container`] rejects any other data set without model inputs.
    raw = {split: cast("Dataset", rows) for split, rows in splits.items() if name not in _first(rows)}
    if (raw or row_format.needs_processor) and processor is None:
        raise ArgumentError("processor", f"must be given for rows without {name!r} and to pad texts, got None")
    prepared: dict[str, MapStyle] = {**splits}
    left_out, classes = dict.fromkeys(splits, 0), indexed_classes(label_names(config))
    if labels is not None and len(raw) < len(splits):
        raise ArgumentError(
            "labels",
            f"must be None for rows that already have class indices, got {list(labels)}",
        )
    if raw:
        first = next(iter(raw.values()))
        columns = columns or find_columns(first.features, sample=sample_cells(first))
        if columns.modality != modality.name:
            held = MODALITIES[columns.modality].plural
            raise ValueError(f"the MainNet reads {modality.plural}, but the rows contain {held}: {columns.inputs}.")
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
    """Reject anything but a data set, with advice on how to make one."""
    if isinstance(rows, str | os.PathLike):
        instead = "`datasets.load_dataset(...)` for a file, or pass the file itself to the command `hf-sidenet`"
    elif isinstance(rows, Mapping) and rows and hasattr(next(iter(rows.values())), "features"):
        instead = f"one of its splits, such as `rows[{next(iter(rows))!r}]`"
    elif isinstance(rows, Mapping):
        instead = "`datasets.Dataset.from_dict(rows)`"
    elif hasattr(rows, "columns"):
        instead = "`datasets.Dataset.from_pandas(rows)`"
    elif not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        instead = "`datasets.Dataset.from_list(list(rows))`, because rows are read more than once"
    elif len(rows) and not (isinstance(_first(rows), Mapping) and (name in _first(rows) or hasattr(rows, "features"))):
        instead = f"`datasets.Dataset.from_list(rows)` for dicts, or dicts with {name!r}"
    else:
        return
    raise ArgumentError(split, f"must be a `datasets.Dataset`, got a {type(rows).__name__}. Pass {instead}")


def _first(rows: Any) -> Any:
    """Return the first row, or an empty dict if there is none."""
    return (unformatted(rows) if hasattr(rows, "with_format") else rows)[0] if len(rows) else {}


def _check_order(rows: Any, split: str, own: Sequence[str]) -> None:
    """Reject class indices whose names in the data contradict the MainNet's order."""
    feature = (getattr(rows, "features", None) or {}).get("labels")
    names = getattr(feature, "names", None) or []
    if moved_names(names, own):
        raise ArgumentError(
            split,
            f"must have `labels` in the order of the MainNet's outputs, {list(own)}, got a "
            f"ClassLabel in another order, {list(names)}. Reorder raw rows with `align_labels`",
        )


def _check_indices(rows: Rows, split: str, task: Task, config: PretrainedConfig) -> None:
    num_outputs = task.num_outputs(config)
    row = task.wrong_row(rows.labels, num_outputs)
    if row is not None:
        raise ArgumentError(
            split,
            f"must have `labels` in [0, {num_outputs}), or {NO_LABEL} for unlabeled rows, "
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
        # Rejects 0.7, which `int` truncates to 0.
        whole = index == float(label)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ArgumentError(
            split,
            f"must have `labels` that are class indices, or -100 for unlabeled rows, got {label!r} in row {row:,}",
        )
    return index


def _labels(prepared: Any, raw: Any, columns: Columns | None) -> list:
    names = getattr(prepared, "column_names", None) or []
    if "labels" in names:
        return prepared.with_format(None)["labels"]
    if raw is not None and columns is not None and columns.label in names:
        return prepared.with_format(None)[columns.label]
    return [row.get("labels", NO_LABEL) for row in (prepared[i] for i in range(len(prepared)))]
