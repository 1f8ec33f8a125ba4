# SPDX-License-Identifier: Apache-2.0
"""Bring the classes of data sets to the MainNet's order, by the rule in `classes.py`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from transformers import PretrainedConfig

from ..models.errors import ArgumentError
from ..models.tasks import label_names
from ..optional import require
from .classes import ClassMap, UnknownClassError, match_classes, spelled


if TYPE_CHECKING:
    from datasets import Dataset

# These readers name classes after folders, in alphabetical order, which is arbitrary.
SORTING_READERS = ("imagefolder", "audiofolder", "videofolder")


def align_labels(
    splits: "Mapping[str, Dataset]",
    label_column: str,
    config: PretrainedConfig,
    *,
    labels: Sequence[str] | None = None,
    new_head: bool = False,
) -> "tuple[dict[str, Dataset], list[str]]":
    """Convert labels to class indices in the order of the MainNet's outputs; see [`match_classes`].

    Args:
        splits (`Mapping[str, Dataset]`): rows by split, each with a label.
        label_column (`str`): column with names or indices of the classes.
        config (`PretrainedConfig`): config of the MainNet, or of a checkpoint with SideNets.
        labels (`Sequence[str]`, *optional*): names of the MainNet's outputs in the data, in order.
        new_head (`bool`, *optional*, defaults to `False`):
            Whether the MainNet still has to be trained on its classes. If its own classes differ, those of `"train"`
            are used.

    Returns:
        `(splits, names)`: the column as a `datasets.ClassLabel` in every split, and the names of the classes.

    Raises:
        ImportError: datasets is not installed.
        ValueError: a label is missing or is not a class of the MainNet, or the output of a name cannot be determined.
    """
    classes = find_classes(splits, label_column, config, labels=labels, new_head=new_head)
    return {key: number_labels(rows, label_column, classes) for key, rows in splits.items()}, list(classes.names)


def find_classes(
    splits: "Mapping[str, Dataset]",
    label_column: str,
    config: PretrainedConfig,
    *,
    labels: Sequence[str] | None = None,
    new_head: bool = False,
) -> ClassMap:
    """Map the labels of some splits to outputs. Arguments and errors are those of [`align_labels`]."""
    require("datasets", "train")
    found = {split: _values(rows, label_column) for split, rows in splits.items()}
    for split, values in found.items():
        if None in values:
            row = _row(splits[split], label_column, None)
            raise ArgumentError(split, f"must have a label in every row, but row {row:,} has none")
    if new_head and len(found.get("train", ())) < 2:
        raise ArgumentError("label_column", f"must contain at least two classes, got {found.get('train', [])}")
    named = {split: [value for value in values if value is not None] for split, values in found.items()}
    try:
        return match_classes(
            [value for values in named.values() for value in values],
            label_names(config),
            ordered=_ordered(splits.values(), label_column, new_head),
            labels=labels,
            new_head=new_head,
            learned=named.get("train", ()),
        )
    except UnknownClassError as error:
        split = next(split for split, values in found.items() if error.label in values)
        raise error.where(split, _row(splits[split], label_column, error.label)) from None


def number_labels(rows: "Dataset", label_column: str, classes: ClassMap) -> "Dataset":
    """Convert labels to class indices, as a `datasets.ClassLabel`. Rows that already have these are unchanged."""
    distinct = list(classes.names) if len(set(classes.names)) == len(classes.names) else None
    target = require("datasets", "train").ClassLabel(num_classes=len(classes.names), names=distinct)
    # Every row has a label at this point.
    values = cast("list[str]", _spelled_column(rows, label_column))
    given: Any = rows.features[label_column]
    # Equal names may still map to other indices, because a class can have several spellings.
    if given == target and all(
        classes.indices[name] == i for i, name in enumerate(given.names) if name in set(values)
    ):
        return rows
    # Adding a column does not rewrite the others, such as images.
    return rows.remove_columns(label_column).add_column(
        label_column, [classes.indices[value] for value in values], feature=target
    )


def _values(rows: "Dataset", label_column: str) -> list[str | None]:
    """Return the distinct labels, in order of first appearance."""
    return list(dict.fromkeys(map(_speller(rows.features[label_column]), rows.unique(label_column))))


def _spelled_column(rows: "Dataset", label_column: str) -> list[str | None]:
    return list(map(_speller(rows.features[label_column]), rows.with_format(None)[label_column][:]))


def _speller(feature: Any) -> Any:
    if not isinstance(feature, require("datasets", "train").ClassLabel):
        return spelled
    # An out-of-range number is kept, to be rejected later with its row.
    return lambda value: feature.names[value] if value in range(feature.num_classes) else spelled(value)


def _row(rows: "Dataset", label_column: str, label: str | None) -> int:
    return _spelled_column(rows, label_column).index(label) + 1


def _ordered(splits: Any, label_column: str, new_head: bool) -> list[str] | None:
    """Return the names of the first ClassLabel whose order is meaningful, or any with `new_head`."""
    class_label = require("datasets", "train").ClassLabel
    for rows in splits:
        feature = rows.features[label_column]
        if isinstance(feature, class_label) and (new_head or rows.info.builder_name not in SORTING_READERS):
            return list(feature.names)
    return None
