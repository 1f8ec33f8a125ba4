# SPDX-License-Identifier: Apache-2.0
"""One order of the classes for data and MainNet."""

from typing import TYPE_CHECKING

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
        splits (`dict[str, Dataset]`): `"train"` is among them, and has every class.
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
    train = splits["train"]
    feature = train.features[label_column]
    own = [config.id2label[index] for index in range(config.num_labels)]
    known = any(name != f"LABEL_{index}" for index, name in enumerate(own))
    names = list(feature.names) if isinstance(feature, class_label) else _names(train.unique(label_column))
    if len(names) < 2:
        raise ValueError(f"`label_column` must hold at least two classes, got {names}.")
    # Data and MainNet often differ in case only: "negative" and "NEGATIVE".
    spelt, positions = ({name.lower(): i for i, name in enumerate(each)} for each in (names, own))
    unique = len(spelt) == len(names) and len(positions) == len(own)
    same = known and unique and spelt.keys() <= positions.keys()
    if same and not isinstance(feature, class_label):
        target = class_label(names=[names[spelt[key]] if key in spelt else own[i] for key, i in positions.items()])
    else:
        target = class_label(names=own if same else names)
    for key, rows in splits.items():
        wrong = set(rows.unique(label_column)) - {*target.names, *range(len(names))}
        if wrong:
            raise ValueError(f"`label_column` of {key} must hold classes that train has, {names}, got {wrong}.")
    if same and isinstance(feature, class_label):
        mapping = dict(zip(own, range(len(own)), strict=True))
        splits = {key: rows.align_labels_with_mapping(mapping, label_column) for key, rows in splits.items()}
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
