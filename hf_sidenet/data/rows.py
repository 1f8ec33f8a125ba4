# SPDX-License-Identifier: Apache-2.0
"""Rows as a model takes them, and what they are: so that equal rows are seen, and features belong to their rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from ..measurement.fingerprint import fingerprint_rows, row_keys
from .columns import Columns, find_columns
from .preparing import collator, prepare_splits


@dataclass(frozen=True)
class Rows:
    """Rows of one split.

    Args:
        dataset (map-style data set): of dicts with the model's inputs and `labels`.
        keys (`list[str]`): what each row is; equal inputs have equal keys.
        fingerprint (`str`): stands for inputs, preprocessing and labels.
        has_labels (`bool`): whether any row has a label.
        collate_fn (`Callable`): makes a batch of a list of rows.
        names (`list[str]`, *optional*): of the classes, in the order of their indices, where raw rows told them.
    """

    dataset: Any
    keys: list[str]
    fingerprint: str
    has_labels: bool
    collate_fn: Callable[[list[Any]], Mapping[str, Any]]
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.keys)


def prepare_rows(
    splits: Mapping[str, Any],
    config: PretrainedConfig,
    processor: Any,
    *,
    is_text: bool,
    columns: Columns | None = None,
    max_length: int | None = None,
) -> dict[str, Rows]:
    """Bring splits to rows of model inputs; those that have `input_ids` or `pixel_values` already stay as they are.

    Args:
        splits (`Mapping[str, datasets.Dataset]` or of other map-style data sets): the rows by the name of the split.
        config (`PretrainedConfig`): of the MainNet, whose classes give the order of the labels.
        processor (tokenizer or image processor, *optional*): needed for raw texts and images, and to pad texts.
        is_text (`bool`): whether the MainNet reads texts.
        columns ([`Columns`], *optional*): of raw splits; by default they are looked for.
        max_length (`int`, *optional*): longer texts are cut, in tokens.

    Raises:
        ValueError: a processor is needed and there is none, or the rows are of another kind than the MainNet.
    """
    name = "input_ids" if is_text else "pixel_values"
    raw = {split: rows for split, rows in splits.items() if name not in (rows[0] if len(rows) else {})}
    if (raw or is_text) and processor is None:
        raise ValueError(f"`processor` must be given for rows without {name!r} and to pad texts, got None.")
    prepared, names = dict(splits), None
    if raw:
        columns = columns or find_columns(next(iter(raw.values())).features)
        if columns.is_text != is_text:
            kinds = ("texts", "images") if is_text else ("images", "texts")
            raise ValueError(f"the MainNet reads {kinds[0]}, but the rows hold {kinds[1]}: {columns.inputs}.")
        inputs, names = prepare_splits(raw, columns, config, processor, max_length=max_length)
        prepared |= inputs
    collate = collator(processor, is_text)
    return {
        split: replace(_rows(rows, raw.get(split), columns, processor, is_text, collate), names=names)
        for split, rows in prepared.items()
    }


def _rows(prepared: Any, raw: Any, columns: Columns | None, processor: Any, is_text: bool, collate: Callable) -> Rows:
    if raw is None:
        keys, how = row_keys(prepared), ""
    elif is_text:
        # What the tokenizer made of them, so that its settings count too.
        keys, how = row_keys(prepared), ""
    else:
        # As they are stored: pixels are made when a row is read.
        keys, how = row_keys(raw, columns.inputs), json.dumps(processor.to_dict(), sort_keys=True, default=str)
    labels = [int(label) for label in _labels(prepared, raw, columns)]
    about = [fingerprint_rows(keys), json.dumps(labels), how]
    digest = hashlib.blake2b("\n".join(about).encode(), digest_size=16)
    return Rows(prepared, keys, digest.hexdigest(), any(label != -100 for label in labels), collate)


def _labels(prepared: Any, raw: Any, columns: Columns | None) -> list:
    names = getattr(prepared, "column_names", None) or []
    if "labels" in names:
        return prepared.with_format(None)["labels"]
    if raw is not None and columns.label in names:
        return prepared.with_format(None)[columns.label]
    return [row.get("labels", -100) for row in (prepared[i] for i in range(len(prepared)))]
