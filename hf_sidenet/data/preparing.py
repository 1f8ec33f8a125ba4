# SPDX-License-Identifier: Apache-2.0
"""Rows of a data set become inputs of a model: token ids or pixels, with `labels` in the MainNet's order."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from ..data import align_labels
from .bad_rows import without_bad_rows
from .columns import Columns
from .lengths import positions_of, text_limit
from .pictures import in_channels, num_channels_of


if TYPE_CHECKING:
    from datasets import Dataset


def load_processor(
    model_name_or_path: str, is_text: bool, **hub_kwargs: Any
) -> PreTrainedTokenizerBase | BaseImageProcessor:
    """The tokenizer or the image processor that is saved with a model.

    Args:
        model_name_or_path (`str`): Hub id or folder.
        is_text (`bool`): whether the model reads texts.
        hub_kwargs (*optional*): `revision`, `token`, `trust_remote_code` and others of `from_pretrained`.

    Raises:
        ValueError: there is none.
    """
    auto_class, kind, file = (
        (AutoTokenizer, "tokenizer", "tokenizer.json")
        if is_text
        else (AutoImageProcessor, "image processor", "preprocessor_config.json")
    )
    advice = (
        f"`model_name_or_path` must have a {kind}, got {model_name_or_path!r} without {file}; save it next to the "
        f"model: {kind.replace(' ', '_')}.save_pretrained(...)."
    )
    try:
        processor = auto_class.from_pretrained(model_name_or_path, **hub_kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(f"{advice} ({' '.join(str(error).split())[:200]})") from error
    # Where the files are missing, transformers makes a tokenizer that knows its special tokens only.
    if is_text and len(processor) <= len(set(processor.all_special_ids)):
        raise ValueError(advice)
    return processor


def processor_in(directory: str, is_text: bool) -> PreTrainedTokenizerBase | BaseImageProcessor | None:
    """[`load_processor`] without code of the folder's own; `None` where there is none."""
    try:
        return load_processor(directory, is_text, trust_remote_code=False)
    except ValueError:
        return None


def prepare(
    rows: "Dataset",
    columns: Columns,
    processor: PreTrainedTokenizerBase | BaseImageProcessor,
    *,
    max_length: int | None = None,
    positions: int | None = None,
    num_channels: int = 3,
) -> "Dataset":
    """Inputs of the model, and `labels` where the rows have them as indices.

    Args:
        rows (`datasets.Dataset`): texts or images.
        columns ([`Columns`]): where they are.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): of [`load_processor`].
        max_length (`int`, *optional*): longer texts are cut, in tokens; by default what the tokenizer names, at most
            512. Images have none.
        positions (`int`, *optional*): of the MainNet, where it has no more than that; see [`text_limit`].
        num_channels (`int`, *optional*, defaults to 3): of the images that the MainNet reads; see [`num_channels_of`].

    Returns:
        `datasets.Dataset`: of lists of `input_ids (length,)` and what else the tokenizer makes, not padded; or of
        `pixel_values (channels, height, width)`, made when a row is read.

    Raises:
        ValueError: `max_length` is less than 1, or given for images.
    """
    if max_length is not None and (max_length < 1 or not columns.is_text):
        raise ValueError(f"`max_length` must be at least 1, and None for images, got {max_length}.")
    if columns.is_text:
        return _tokenize(rows, columns, processor, text_limit(processor, positions, max_length))
    return _pixels(rows, columns, processor, num_channels)


def prepare_splits(
    splits: "dict[str, Dataset]",
    columns: Columns,
    config: PretrainedConfig,
    processor: PreTrainedTokenizerBase | BaseImageProcessor,
    *,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    new_head: bool = False,
) -> "tuple[dict[str, Dataset], list[str]]":
    """[`prepare`] every split, with the classes in one order: see [`align_labels`].

    Args:
        splits (`dict[str, Dataset]`): of [`load_splits`].
        columns ([`Columns`]): of [`load_splits`].
        config (`PretrainedConfig`): of the MainNet, or of a checkpoint with SideNets.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): of [`load_processor`].
        max_length (`int`, *optional*): see [`prepare`].
        labels (`Sequence[str]`, *optional*): see [`align_labels`], as for the next one.
        new_head (`bool`, *optional*, defaults to `False`): whether the MainNet is still to learn its classes.

    Returns:
        `(inputs, names)`: the splits, and the names of the classes in the order of their indices.

    Raises:
        ImportError: datasets is not installed.
        ValueError: see [`align_labels`] and [`prepare`], or a row has no text, no readable picture or no label.
    """
    splits = {key: without_bad_rows(rows, key, columns, skip=False)[0] for key, rows in splits.items()}
    splits, names = align_labels(splits, columns.label, config, labels=labels, new_head=new_head)
    about = {"positions": positions_of(config)} if columns.is_text else {"num_channels": num_channels_of(config)}
    inputs = {key: prepare(rows, columns, processor, max_length=max_length, **about) for key, rows in splits.items()}
    return inputs, names


def collator(
    processor: PreTrainedTokenizerBase | BaseImageProcessor, is_text: bool
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """What makes a batch of prepared rows, with or without `labels`: texts are padded to the longest, images stacked.

    Raises:
        ValueError: the tokenizer cannot pad.
    """
    if not is_text:
        return stack_images
    if processor.pad_token is None:
        raise ValueError(f"the tokenizer must have a `pad_token`, got None from {processor.name_or_path!r}.")
    return DataCollatorWithPadding(processor)


def stack_images(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """`pixel_values (batch_size, channels, height, width)` and, where the rows have them, `labels (batch_size,)`."""
    batch = {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def _tokenize(rows: "Dataset", columns: Columns, tokenizer: PreTrainedTokenizerBase, length: int) -> "Dataset":
    def encode(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(*(batch[name] for name in columns.inputs), truncation=True, max_length=length)
        return {**encoded, **_labels(batch, columns)}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="Tokenizing")


def _pixels(rows: "Dataset", columns: Columns, processor: BaseImageProcessor, num_channels: int) -> "Dataset":
    def read(batch: dict[str, list]) -> dict[str, list]:
        images = [in_channels(image, num_channels) for image in batch[columns.inputs[0]]]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixels), **_labels(batch, columns)}

    return rows.with_transform(read)


def _labels(batch: dict[str, list], columns: Columns) -> dict[str, list]:
    return {"labels": batch[columns.label]} if columns.label in batch else {}
