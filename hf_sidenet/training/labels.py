# SPDX-License-Identifier: Apache-2.0
"""One order of the classes for data and MainNet."""

from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig
from transformers.utils import logging

from ..optional import require


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


def align_labels(
    splits: "dict[str, Dataset]", label_column: str, config: PretrainedConfig
) -> "tuple[dict[str, Dataset], list[str]]":
    """Class indices in the order of the MainNet where it knows the names, else in the order of the data.

    Args:
        splits (`dict[str, Dataset]`): `"train"` has every class. Without it, the classes are those of `config`.
        label_column (`str`): names or indices of the classes.
        config (`PretrainedConfig`): of the MainNet, or of a checkpoint with SideNets.

    Returns:
        `(splits, names)`: the column as a `datasets.ClassLabel` in every split, and the names of the classes.

    Raises:
        ImportError: datasets is not installed.
        ValueError: there is one class only, a row has none, numbers do not count from 0, or a split has a class that
            neither train nor the MainNet has.
    """
    class_label = require("datasets", "train").ClassLabel
    first = splits["train"] if "train" in splits else next(iter(splits.values()))
    feature = first.features[label_column]
    splits = {key: _numbered_as(feature, rows, label_column, key) for key, rows in splits.items()}
    own = [config.id2label[index] for index in range(config.num_labels)]
    known = any(name != f"LABEL_{index}" for index, name in enumerate(own))
    if isinstance(feature, class_label):
        names = list(feature.names)
    elif "train" in splits:
        names = _names(first.unique(label_column))
    else:
        names = _names_of_config(own, [value for rows in splits.values() for value in rows.unique(label_column)])
    if len(names) < 2 and "train" in splits:
        raise ValueError(f"`label_column` must hold at least two classes, got {names}.")
    # Data and MainNet often differ in case only: "negative" and "NEGATIVE".
    spelt, positions = ({name.lower(): i for i, name in enumerate(each)} for each in (names, own))
    unique = len(spelt) == len(names) and len(positions) == len(own)
    same = known and unique and spelt.keys() <= positions.keys()
    if "train" not in splits and not same and len(names) != len(own):
        raise ValueError(f"`label_column` without train must hold classes that the MainNet has, {own}, got {names}.")
    if same and not isinstance(feature, class_label):
        target = class_label(names=[names[spelt[key]] if key in spelt else own[i] for key, i in positions.items()])
    else:
        target = class_label(names=own if same else names)
    for key, rows in splits.items():
        wrong = set(rows.unique(label_column)) - {*target.names, *range(len(names))}
        if wrong:
            source = "train" if "train" in splits else "the MainNet"
            raise ValueError(f"`label_column` of {key} must hold classes that {source} has, {names}, got {wrong}.")
    if same and isinstance(feature, class_label):
        splits = {key: _numbered_as(target, rows, label_column, key) for key, rows in splits.items()}
    elif known and not same and len(names) == len(own):
        logger.warning("Classes %s of the data are taken for the MainNet's %s, in this order.", names, own)
        same = True
    # A cast writes all columns again, images too.
    splits = {
        key: rows if rows.features[label_column] == target else rows.cast_column(label_column, target)
        for key, rows in splits.items()
    }
    return splits, own if same else names


def _names(values: list[str] | list[int]) -> list[str]:
    if None in values:
        raise ValueError("`label_column` must hold a class in every row of train, got None.")
    values = sorted(values)
    if isinstance(values[0], str):
        return values
    if values != list(range(len(values))):
        raise ValueError(f"`label_column` with numbers must hold 0, 1, 2 …, got {values[:10]}.")
    return [f"LABEL_{value}" for value in values]


def _names_of_config(own: list[str], values: list[str] | list[int]) -> list[str]:
    """The MainNet's classes as the data spell them."""
    if not any(isinstance(value, str) for value in values):
        return [f"LABEL_{index}" for index in range(len(own))]
    if len({name.lower() for name in own}) < len(own):
        return own
    spelt = {value.lower(): value for value in values if value is not None}
    return [spelt.get(name.lower(), name) for name in own]


def _numbered_as(feature: Any, rows: "Dataset", label_column: str, key: str) -> "Dataset":
    """Files and MainNets may number the same classes in different ways: where both sides have names, these count."""
    class_label = require("datasets", "train").ClassLabel
    given = rows.features[label_column]
    if given == feature or not any(isinstance(each, class_label) for each in (given, feature)):
        return rows
    values = rows[label_column][:]
    if isinstance(given, class_label):
        values = [given.names[value] if value in range(given.num_classes) else value for value in values]
    if not isinstance(feature, class_label):
        is_string = feature.dtype in ("string", "large_string")
        return rows.remove_columns(label_column).add_column(label_column, values) if is_string else rows
    numbers = {index: index for index in range(feature.num_classes)}
    for spelling in (str.lower, str):
        numbers |= {spelling(name): index for index, name in enumerate(feature.names)}
    indices = [numbers.get(value, numbers.get(str(value).lower())) for value in values]
    wrong = {value for value, index in zip(values, indices, strict=True) if index is None}
    if wrong:
        raise ValueError(f"`label_column` of {key} must hold classes out of {feature.names}, got {wrong}.")
    # A new column leaves the others alone: images are not written again.
    return rows.remove_columns(label_column).add_column(label_column, indices, feature=feature)
