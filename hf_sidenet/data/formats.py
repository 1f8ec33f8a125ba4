# SPDX-License-Identifier: Apache-2.0
"""Convert rows of data to model inputs: one format per modality.

A format finds unreadable rows, tokenizes texts or opens images, and collates batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BaseImageProcessor, DataCollatorWithPadding, PretrainedConfig, PreTrainedTokenizerBase

from ..io.fingerprint import content_keys, row_keys
from ..models.errors import ArgumentError
from ..models.modalities import IMAGE, TEXT, Modality
from ..models.row_inputs import follows_tokens
from ..models.tasks import LABEL_INPUTS
from ..optional import require
from .columns import Columns, is_image
from .limits import in_channels, num_channels_of, positions_of, text_limit


if TYPE_CHECKING:
    from datasets import Dataset

# What every tokenizer pads, and what it need not.
PADDED = frozenset({"input_ids", "attention_mask", "token_type_ids", "special_tokens_mask"}) | LABEL_INPUTS
Processor = PreTrainedTokenizerBase | BaseImageProcessor


class MapStyle(Protocol):
    """Data set of dicts that is indexed by row number, such as `datasets.Dataset` or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class RowFormat:
    """Rows of one modality.

    Attributes:
        modality ([`Modality`]): the modality.
        noun (`str`): noun for the contents of a row, in messages.
        needs_processor (`bool`): whether rows that are already model inputs need a processor, for padding.
    """

    modality: Modality
    noun: str
    needs_processor: bool

    def problems(self, rows: "Dataset", name: str) -> Iterator[tuple[int, str]]:
        """Yield the index of each row whose input is missing or unreadable, and the problem.

        Args:
            rows (`datasets.Dataset`): raw rows.
            name (`str`): name of the column.
        """
        raise NotImplementedError

    def prepare(
        self,
        rows: "Dataset",
        columns: Columns,
        processor: Processor,
        config: PretrainedConfig,
        max_length: int | None = None,
    ) -> "Dataset":
        """Convert raw rows to model inputs, with `labels` if they have any; see [`prepare`]."""
        raise NotImplementedError

    def collator(self, processor: Processor | None) -> Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]:
        """Return a function that collates prepared rows, with or without `labels`.

        Raises:
            ValueError: the processor cannot collate.
        """
        raise NotImplementedError

    def keys(
        self, prepared: MapStyle, raw: "Dataset | None", columns: Columns | None, processor: Processor | None
    ) -> tuple[list[str], list[str], dict[str, Any]]:
        """Return keys of each row's model inputs, keys of its contents, and settings that also matter.

        Args:
            prepared (map-style data set): model inputs.
            raw (`datasets.Dataset`, *optional*): raw rows behind them.
            columns ([`Columns`], *optional*): columns of the raw rows.
            processor (tokenizer or image processor, *optional*): processor that made the inputs.
        """
        raise NotImplementedError


class TextRows(RowFormat):
    """Texts and pairs of texts."""

    modality = TEXT
    noun = "text"
    needs_processor = True

    def problems(self, rows: "Dataset", name: str) -> Iterator[tuple[int, str]]:
        """See [`RowFormat.problems`]."""
        for i, text in enumerate(rows.with_format(None).select_columns(name)[:][name]):
            if text is None:
                yield i, f"has no text in {name!r}"

    def prepare(
        self,
        rows: "Dataset",
        columns: Columns,
        processor: Processor,
        config: PretrainedConfig,
        max_length: int | None = None,
    ) -> "Dataset":
        """See [`RowFormat.prepare`]: token ids, not padded."""
        # The processor of texts is a tokenizer.
        length = text_limit(cast(PreTrainedTokenizerBase, processor), positions_of(config), max_length)
        read = cast(Callable[..., Mapping[str, Any]], processor)

        def encode(batch: dict[str, list]) -> dict[str, list]:
            encoded = read(*(batch[name] for name in columns.inputs), truncation=True, max_length=length)
            return {**encoded, **_labels(batch, columns)}

        return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="Tokenizing")

    def collator(self, processor: Processor | None) -> Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]:
        """See [`RowFormat.collator`]: pads to the longest, also inputs that the tokenizer does not know."""
        tokenizer = cast(PreTrainedTokenizerBase, processor)
        if tokenizer.pad_token is None:
            raise ValueError(f"the tokenizer must have a `pad_token`, got None from {tokenizer.name_or_path!r}.")
        return TextCollator(tokenizer)

    def keys(
        self, prepared: MapStyle, raw: "Dataset | None", columns: Columns | None, processor: Processor | None
    ) -> tuple[list[str], list[str], dict[str, Any]]:
        """See [`RowFormat.keys`]: from the tokenizer's output, which covers its settings."""
        keys = row_keys(prepared)
        if raw is None:
            return keys, keys, {}
        assert columns is not None  # Raw rows have columns.
        return keys, content_keys(*(raw.with_format(None)[name] for name in columns.inputs)), {}


class ImageRows(RowFormat):
    """Images."""

    modality = IMAGE
    noun = "picture"
    needs_processor = False

    def problems(self, rows: "Dataset", name: str) -> Iterator[tuple[int, str]]:
        """See [`RowFormat.problems`]: decodes every image once."""
        if not is_image(rows.features[name]):
            return
        image = require("datasets", "train").Image(decode=False)
        stored = rows.with_format(None).select_columns(name).cast_column(name, image)
        for i, row in enumerate(cast("Iterator[dict[str, Any]]", stored)):
            what = _unreadable(row[name])
            if what is not None:
                yield i, what

    def prepare(
        self,
        rows: "Dataset",
        columns: Columns,
        processor: Processor,
        config: PretrainedConfig,
        max_length: int | None = None,
    ) -> "Dataset":
        """See [`RowFormat.prepare`]: pixels, computed when a row is read.

        Raises:
            ValueError: `max_length` is given.
        """
        if max_length is not None:
            raise ArgumentError("max_length", f"must be at least 1, and None for images, got {max_length}")
        num_channels = num_channels_of(config)
        to_pixels = cast(Callable[..., Mapping[str, Any]], processor)

        def read(batch: dict[str, list]) -> dict[str, list]:
            images = [in_channels(image, num_channels) for image in batch[columns.inputs[0]]]
            pixels = to_pixels(images, return_tensors="pt")["pixel_values"]
            return {"pixel_values": list(pixels), **_labels(batch, columns)}

        return rows.with_transform(read)

    def collator(self, processor: Processor | None) -> Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]:
        """See [`RowFormat.collator`]."""
        return stack_images

    def keys(
        self, prepared: MapStyle, raw: "Dataset | None", columns: Columns | None, processor: Processor | None
    ) -> tuple[list[str], list[str], dict[str, Any]]:
        """See [`RowFormat.keys`]: from images as stored, since pixels are computed when a row is read."""
        if raw is None:
            keys = row_keys(prepared)
            return keys, keys, {}
        assert columns is not None  # Raw rows have columns, and a processor.
        keys = row_keys(raw, columns.inputs)
        return keys, keys, cast(BaseImageProcessor, processor).to_dict()


FORMATS: dict[str, RowFormat] = {each.modality.name: each for each in (TextRows(), ImageRows())}


def format_of(modality: Modality) -> RowFormat:
    """Return the row format of a modality."""
    return FORMATS[modality.name]


@dataclass
class TextCollator(DataCollatorWithPadding):
    """[`DataCollatorWithPadding`] that also pads inputs which only some MainNets take, such as LayoutLM's `bbox`.

    Inputs with one entry per token get zeros where the tokenizer adds padding. Others have one size, or are padded by
    the tokenizer itself (LUKE's entities).
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows.

        Raises:
            ValueError: an input has neither one entry per token nor one size, and the tokenizer cannot pad it.
        """
        lengths = [len(row["input_ids"]) for row in features]
        ready: dict[str, list[torch.Tensor]] = {}
        left = [name for name, value in features[0].items() if name not in PADDED and _is_array(value)]
        for name in left:
            with suppress(TypeError, ValueError):
                values = [torch.as_tensor(row[name]) for row in features]
                if _follow_tokens(name, values, lengths) or len({value.shape for value in values}) == 1:
                    ready[name] = values
        left = [name for name in left if name not in ready]
        try:
            batch = super().__call__([{k: v for k, v in row.items() if k not in ready} for row in features])
        except ValueError as error:
            if not left:
                raise
            rule = "must have one entry per token, one size in all rows, or a tokenizer that pads it"
            advice = "Pad it in the data set, together with its mask."
            raise ArgumentError(left[0], f"{rule}; rows differ", advice=advice) from error
        width = batch["input_ids"].shape[1]
        for name, values in ready.items():
            if _follow_tokens(name, values, lengths):
                values = [_padded(value, width, self.tokenizer.padding_side) for value in values]
            batch[name] = torch.stack(values)
        return batch


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0)


def _follow_tokens(name: str, values: list[torch.Tensor], lengths: list[int]) -> bool:
    """Return whether an input has one entry per token in all rows."""
    pairs = [(value.shape, length) for value, length in zip(values, lengths, strict=True)]
    return all(follows_tokens(name, shape, length) and shape[:1] == (length,) for shape, length in pairs)


def _padded(value: torch.Tensor, width: int, side: str) -> torch.Tensor:
    more = width - len(value)
    ends = (more, 0) if side == "left" else (0, more)
    return F.pad(value, (0, 0) * (value.dim() - 1) + ends)


def stack_images(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows to `pixel_values (batch, channels, height, width)` and, if they have any, `labels (batch,)`.

    Other tensors and arrays, such as masks, are stacked too. Numbers and names are not: no MainNet takes any.
    """
    arrays = [name for name, value in rows[0].items() if isinstance(value, torch.Tensor | np.ndarray) and value.ndim]
    names = dict.fromkeys(["pixel_values", *arrays])
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in names}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def _labels(batch: dict[str, list], columns: Columns) -> dict[str, list]:
    return {"labels": batch[columns.label]} if columns.label in batch else {}


def _unreadable(stored: dict[str, Any] | None) -> str | None:
    """Return what is wrong with a stored image, or `None`."""
    pillow = require("PIL.Image", "vision")
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        return "has no picture"
    source = stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"])
    try:
        with pillow.open(source) as picture:
            picture.load()
    # Decoders raise many types.
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        EOFError,
        OverflowError,
        pillow.DecompressionBombError,
    ) as error:
        file = "" if stored["path"] is None else f" {stored['path']!r}"
        # PIL's own message names the file or buffer.
        reason = "not a picture" if isinstance(error, pillow.UnidentifiedImageError) else " ".join(str(error).split())
        return f"has a picture{file} that cannot be read ({reason})"
    return None
