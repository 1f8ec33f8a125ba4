# SPDX-License-Identifier: Apache-2.0
"""Turn user input into checked [`Row`]s; invalid input is rejected before it reaches a batch."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.formats import Processor
from ..data.limits import in_channels, num_channels_of, text_limit
from ..models.errors import ArgumentError
from ..models.exit_rule import check_thresholds
from ..models.modalities import TEXT
from ..models.row_inputs import OTHER_INPUTS, TOKEN_INPUTS, follows_tokens
from ..models.tasks import LABEL_INPUTS
from .engine import RowError, halved
from .protocols import ServedModel, with_own_config
from .rows import Row


INTEGER_INPUTS = frozenset(TEXT.usual_inputs) - {"inputs_embeds"}


def check_rows(rows: Any, name: str = "rows") -> None:
    """Reject a single row or a table where an iterable of rows is expected: iterating it would yield letters or names.

    Args:
        rows (`Any`): the rows.
        name (`str`, *optional*, defaults to `"rows"`): name of the argument.

    Raises:
        ValueError: it is not an iterable of rows; the message says what to pass instead.
    """
    if isinstance(rows, str | bytes | bytearray):
        instead = "one text as `[text]`"
    elif isinstance(rows, Mapping):
        instead = "one row as `[row]`; for a dict of columns, the column of texts or one dict per row"
    elif hasattr(rows, "columns"):
        instead = 'a column, `frame["text"]`; for pairs, `zip(frame["text"], frame["text_pair"])`'
    elif isinstance(rows, torch.Tensor) or (isinstance(rows, np.ndarray) and rows.dtype.kind not in "OU"):
        instead = 'one entry per row, `[{"pixel_values": image} for image in images]`'
    elif not isinstance(rows, Iterable) and not hasattr(rows, "__getitem__"):
        instead = "one row as `[row]`"
    else:
        return
    raise ArgumentError(name, f"must be an iterable of rows, got a {type(rows).__name__}. Pass {instead}")


def own_tokenizer(processor: Processor | None, **arguments: Any) -> Processor | None:
    """Copy a tokenizer for calls with fixed arguments; return any other processor unchanged.

    A fast tokenizer keeps its truncation and padding settings between calls, so threads that share one would get each
    other's.

    Args:
        processor (tokenizer or image processor, *optional*): the processor.
        arguments (`Any`): arguments of every call.
    """
    if not isinstance(processor, PreTrainedTokenizerBase):
        return processor
    tokenizer = copy.deepcopy(processor)
    # Apply the settings before there are threads. A tokenizer for more than texts may fail here.
    with suppress(Exception):
        tokenizer("", **arguments)
    return tokenizer


class RowReader:
    """Reads rows for a chain of stages.

    Args:
        stages ([`ServedModel`]): defines the inputs; later changes to its config have no effect.
        processor (tokenizer or image processor, *optional*): processor for raw texts, text pairs and images. A
            tokenizer is copied.
        max_length (`int`, *optional*): tokens at which raw texts are truncated; by default the tokenizer's limit, at
            most 512.
    """

    def __init__(self, stages: ServedModel, processor: Processor | None = None, max_length: int | None = None):
        self.stages = with_own_config(stages)
        self.max_length = text_limit(cast("PreTrainedTokenizerBase | None", processor), stages.max_length, max_length)
        self.processor = own_tokenizer(processor, truncation=True, max_length=self.max_length)
        self.num_sidenets = len(stages) - 1
        config = stages.config.mainnet_config
        self.limits = {
            name: getattr(config, field, None) for name, field in (TOKEN_INPUTS | OTHER_INPUTS).items() if field
        }

    def thresholds(self, thresholds: float | Sequence[float] | torch.Tensor | None) -> tuple[float, ...]:
        """Check θ and return one value per SideNet, by default the config's.

        Raises:
            ValueError: see [`check_thresholds`].
        """
        given = self.stages.config.thresholds if thresholds is None else thresholds
        if isinstance(given, torch.Tensor):
            given = given.tolist()
        return tuple(check_thresholds(given, self.num_sidenets))

    def read(self, places: Sequence[int], raw: Sequence[Any], thresholds: Sequence[tuple]) -> list[Row | RowError]:
        """Read rows; invalid ones become errors.

        Args:
            places (`Sequence[int]`): their indices in the stream.
            raw (`Sequence[Any]`): rows as the user passed them.
            thresholds (`Sequence[tuple[float, ...]]`): θ for each row.
        """
        features = self._features(raw)
        rows: list[Row | RowError] = []
        for place, each, ready, theta in zip(places, features, self._ready(features), thresholds, strict=True):
            if ready is None:
                rows.append(self._row(place, each, theta))
            else:
                inputs, length = ready
                rows.append(Row(place, inputs, length, theta))
        return rows

    def _ready(self, features: Sequence[Any]) -> list[tuple[dict[str, torch.Tensor], int] | None]:
        """Return inputs and length of valid texts; `None` for other rows, which are read one by one."""
        ready: list[tuple[dict[str, torch.Tensor], int] | None] = [None] * len(features)
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, each in enumerate(features):
            if type(each) is dict:
                names = tuple(name for name in each if name not in LABEL_INPUTS)
                if all(type(each[name]) is list for name in names):
                    alike.setdefault(names, []).append(i)
        for group in alike.values():
            for part, found in halved(group, lambda part: self._at_once([features[i] for i in part])):
                for i, each in zip(part, [None] if isinstance(found, Exception) else found, strict=True):
                    ready[i] = each
        return ready

    def _at_once(self, features: Sequence[dict[str, list[int]]]) -> list[tuple[dict[str, torch.Tensor], int]]:
        """Read many texts with the same inputs as one tensor per input, of which every text gets a part.

        Raises:
            ValueError: some text is not valid, or has inputs of another kind. Why is found out one by one.
        """
        names = set(features[0]) - LABEL_INPUTS
        if "input_ids" not in names or not names <= INTEGER_INPUTS.intersection(self.stages.input_names):
            raise ValueError("not only token ids.")
        lengths = [len(each["input_ids"]) for each in features]
        if min(lengths) == 0 or max(lengths) > (self.stages.max_length or math.inf):
            raise ValueError("too short or too long.")
        starts = np.cumsum([0, *lengths[:-1]])
        columns: dict[str, np.ndarray] = {}
        for name in names:
            values = [each[name] for each in features]
            column = np.array(list(chain.from_iterable(values)))
            is_fine = column.ndim == 1 and column.dtype == np.int64 and list(map(len, values)) == lengths
            if not is_fine or (name == "attention_mask" and not np.logical_or.reduceat(column, starts).all()):
                raise ValueError("of another shape.")
            self._check_range(name, torch.from_numpy(column))
            columns[name] = column
        if "attention_mask" in self.stages.input_names and "attention_mask" not in columns:
            columns["attention_mask"] = np.ones(sum(lengths), dtype=np.int64)
        names = sorted(columns)
        parts = zip(*(torch.from_numpy(columns[name]).split(lengths) for name in names), strict=True)
        return [(dict(zip(names, each, strict=True)), length) for each, length in zip(parts, lengths, strict=True)]

    def _features(self, raw: Sequence[Any]) -> list[Any]:
        """Return the model inputs of each row, or the processor's error."""
        features = list(raw)
        new = [i for i, row in enumerate(raw) if not isinstance(row, Mapping)]
        if self.processor is None:
            for i in new:
                features[i] = _no_processor(raw[i])
            return features
        # Tokenizing many texts at once is several times faster.
        texts = [i for i in new if self.stages.modality.has_tokens and isinstance(raw[i], str)]
        for part, found in halved(texts, lambda part: self._tokenized([raw[i] for i in part])):
            for i, each in zip(part, [found] if isinstance(found, Exception) else found, strict=True):
                features[i] = each
        for i in new:
            if features[i] is raw[i]:
                features[i] = self._processed(raw[i])
            if isinstance(features[i], Exception):
                features[i] = _no_unicode(raw[i]) or features[i]
        return features

    def _called(self, *raw: Any, **arguments: Any) -> Mapping[str, Any]:
        return cast(Callable[..., Mapping[str, Any]], self.processor)(*raw, **arguments)

    def _tokenized(self, texts: list[str]) -> list[dict[str, Any]]:
        encoded = dict(self._called(texts, truncation=True, max_length=self.max_length))
        for name, values in encoded.items():
            if len(values) != len(texts):
                raise ArgumentError(
                    "processor",
                    f"must return one row per text, {len(texts)}, got {len(values)} `{name}`",
                )
        return [{name: values[i] for name, values in encoded.items()} for i in range(len(texts))]

    def _processed(self, row: Any) -> Any:
        try:
            if not self.stages.modality.has_tokens:
                picture = in_channels(row, num_channels_of(self.stages.config))
                return {"pixel_values": self._called(picture, return_tensors="pt")["pixel_values"][0]}
            _check_texts(row)
            return dict(self._called(*row, truncation=True, max_length=self.max_length))
        except Exception as error:
            return error

    def _row(self, place: int, features: Any, thresholds: tuple) -> Row | RowError:
        try:
            if isinstance(features, Exception):
                raise features
            inputs = {name: self._input(name, value) for name, value in features.items() if name not in LABEL_INPUTS}
            length = self._length(inputs)
        except Exception as error:
            failure = RowError(f"row {place}: {error}")
            failure.__cause__ = error
            return failure
        return Row(place, dict(sorted(inputs.items())), length, thresholds)

    def _input(self, name: str, value: Any) -> torch.Tensor:
        if name not in self.stages.input_names:
            raise ValueError(f"inputs must be among {list(self.stages.input_names)}, got {name!r}.")
        if name not in self.stages.modality.usual_inputs:
            return self._other_input(name, value)
        listed, value = value, torch.as_tensor(value)
        if name in INTEGER_INPUTS:
            if value.dim() != 1 or (value.is_floating_point() and value.numel() > 0):
                raise ArgumentError(
                    name,
                    f"must be integers of shape (tokens,), got {value.dtype} of shape {tuple(value.shape)}",
                )
            self._check_range(name, listed if isinstance(listed, list) else value)
            return value.long()
        expected = 2 if name == "inputs_embeds" else 3
        if value.dim() != expected or not value.is_floating_point():
            axes = "(tokens, width)" if expected == 2 else "(channels, height, width)"
            raise ArgumentError(name, f"must be floats of shape {axes}, got {value.dtype} of {tuple(value.shape)}")
        return value.to(self.stages.dtype)

    def _other_input(self, name: str, given: Any) -> torch.Tensor:
        """Convert an input that only some MainNets take, which check its shape themselves."""
        try:
            value = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(name, f"must be numbers, as many in each part ({error})") from error
        # An empty list becomes floats.
        if value.is_floating_point() and value.numel() > 0:
            if name in self.limits:
                raise ArgumentError(name, f"must be integers, got {value.dtype} of shape {tuple(value.shape)}")
            return value.to(self.stages.dtype)
        if value.dtype == torch.bool:
            return value
        self._check_range(name, value)
        if name == "bbox" and value.shape[-1:] == (4,) and (value[..., :2] > value[..., 2:]).any():
            # Its width and height are indices too.
            raise ArgumentError(name, "must have boxes (left, top, right, bottom), got one that ends before it begins")
        return value.long()

    def _check_range(self, name: str, values: list[int] | torch.Tensor) -> None:
        # On a GPU an out-of-range index crashes the process, not just the call.
        limit = self.limits.get(name)
        if limit is None or (values.numel() if isinstance(values, torch.Tensor) else len(values)) == 0:
            return
        # Faster for a short list than for a tensor.
        low, high = (min(values), max(values)) if isinstance(values, list) else values.aminmax()
        if low < 0 or high >= limit:
            raise ArgumentError(name, f"must be in [0, {limit}), got {int(low)} to {int(high)}")

    def _length(self, inputs: dict[str, torch.Tensor]) -> int:
        names = self.stages.modality.main_inputs
        main = [name for name in names if name in inputs]
        if len(main) != 1:
            wanted = " and ".join(f"`{name}`" for name in names)
            which = f"one of {wanted}" if len(names) > 1 else wanted
            raise ValueError(f"{which} must be given, got {sorted(inputs) or 'none'}.")
        if not self.stages.modality.has_tokens:
            return 0
        length = len(inputs[main[0]])
        longest = self.stages.max_length
        if length == 0 or (longest is not None and length > longest):
            raise ValueError(f"a text must have 1 to {longest or 'any number of'} tokens, got {length}.")
        for name, value in inputs.items():
            if follows_tokens(name, value.shape, length) and value.shape[:1] != (length,):
                got = len(value) if value.dim() else "a single number"
                raise ArgumentError(name, f"must have {length} entries like `{main[0]}`, got {got}")
        if "attention_mask" in inputs:
            if not inputs["attention_mask"].any():
                raise ArgumentError("attention_mask", "must keep at least one token, got zeros")
        elif "attention_mask" in self.stages.input_names:
            inputs["attention_mask"] = torch.ones(length, dtype=torch.long)
        return length


def _check_texts(row: Any) -> None:
    if isinstance(row, tuple | list) and len(row) in (1, 2) and all(isinstance(text, str) for text in row):
        return
    # Only the types, since the values may be long.
    kinds = [type(value).__name__ for value in row[:4]] if isinstance(row, tuple | list) else type(row).__name__
    raise ValueError(f"a row must be a text, a pair of texts or a dict of model inputs, got one of type {kinds}.")


def _no_unicode(row: Any) -> ValueError | None:
    """Explain invalid Unicode more clearly than tokenizers do."""
    for text in (row,) if isinstance(row, str) else row if isinstance(row, tuple | list) else ():
        try:
            str(text).encode()
        except UnicodeEncodeError as error:
            found = text[error.start]
            return ValueError(
                f"a text must be valid Unicode, got {found!r} at {error.start}, half of a surrogate pair."
            )
    return None


def _no_processor(row: Any) -> ValueError:
    return ValueError(
        f"a row must be a dict of model inputs if the runner has no `processor`, got a {type(row).__name__}."
    )
