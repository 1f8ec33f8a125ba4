# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of rows and models: equal content gives equal text, in every process and on every machine.

They tell whether something computed earlier still belongs to these rows and these weights, and whether two data sets
have rows in common. A row is known by its inputs alone, as they are stored: a text by its characters, an image by the
bytes of its file.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..models.errors import ArgumentError
from ..models.tasks import LABEL_INPUTS


# Columns that say what a row should be answered, not what it is.
ANSWERS = LABEL_INPUTS | {"label"}
# What a config says about where a model came from and how it was called last; it changes no answer. The dtype is that
# of the tensors.
VOLATILE = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "name_or_path",
        "problem_type",
        "processor_class",
        "torch_dtype",
        "transformers_version",
    }
)
# Beside these and what is for training, what of a classifier's config changes no answer.
UNREAD = frozenset(
    {
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "label_descriptions",
        "label_names",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "task_specific_params",
        "use_cache",
    }
)
# What of a tokenizer changes its answers beside its vocabulary and rules; where texts are cut is the caller's choice.
TOKENIZER_SETTINGS = ("pad_token_id", "padding_side", "truncation_side", "model_input_names")
# 128 bits: enough for no two rows to meet by accident.
DIGEST_SIZE = 16
ROWS_PER_READ = 1000
WORDS = re.compile(r"\w+")


def row_keys(dataset: Any, columns: Sequence[str] | None = None) -> list[str]:
    """A hash of the inputs of every row, which is the same wherever the same inputs come again.

    Args:
        dataset (`datasets.Dataset` or a map-style data set):
            A `datasets.Dataset` is read as it is stored: nothing is decoded and no transform runs. Rows of other data
            sets are the dicts that `dataset[i]` gives; their tensors, arrays, images and lists are read.
        columns (`Sequence[str]`, *optional*, defaults to every column but the labels):
            The inputs, in this order (by default in alphabetical order). Names do not count, so that a text is known
            again in a file that calls its column otherwise.

    Returns:
        `list[str]`: one key of 32 hexadecimal digits per row, in the order of the data set.

    Raises:
        ValueError: `columns` names none, or one that is missing; the data set has no rows by number, or a value is of
            an unknown kind.
    """
    if columns is not None and (isinstance(columns, str) or len(columns) == 0):
        raise ArgumentError("columns", "must be a list of at least one name", columns)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ArgumentError("dataset", f"must give rows by number, got a {type(dataset).__name__} that does not")
    keys = []
    for row in _stored_rows(dataset, columns):
        names = sorted(set(row) - ANSWERS) if columns is None else columns
        missing = [name for name in names if name not in row]
        if missing or not names:
            raise ArgumentError(
                "columns",
                f"must name columns of every row, got {missing}; row {len(keys)} has {[*row]}",
            )
        digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        for name in names:
            _feed_value(digest, row[name], name)
        keys.append(digest.hexdigest())
    return keys


def content_keys(*texts: Sequence[str]) -> list[str]:
    """A hash of what every row of texts says: the same for copies that differ in case, spaces or punctuation.

    Args:
        texts (`Sequence[str]`): of every row; two of them for pairs.
    """
    keys = []
    for row in zip(*texts, strict=True):
        digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        for text in row:
            folded = unicodedata.normalize("NFKC", text).casefold()
            # A row may be signs alone.
            _feed(digest, "text", (" ".join(WORDS.findall(folded)) or folded.strip()).encode(errors="surrogatepass"))
        keys.append(digest.hexdigest())
    return keys


def fingerprint_rows(keys: Iterable[str]) -> str:
    """One fingerprint of many rows, in their order, from what [`row_keys`] returns."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for key in keys:
        _feed(digest, "key", key.encode())
    return digest.hexdigest()


def fingerprint_model(model: nn.Module) -> str:
    """Fingerprint of a model's class, config, parameters and buffers; not of where it was loaded from.

    The same weights in another dtype are another model, on another device they are the same.

    Args:
        model (`PreTrainedModel` or `nn.Module`): its tensors are read one after the other, on the CPU.

    Raises:
        ValueError: some of its tensors are not loaded (they are on the device "meta").
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    config: Any = getattr(model, "config", None)
    fields = {} if config is None else config.to_dict()
    _feed(digest, f"model {type(model).__name__}", _json(_lasting(fields)))
    _feed_tensors(digest, "parameter", model.named_parameters())
    _feed_tensors(digest, "buffer", model.named_buffers())
    return digest.hexdigest()


def fingerprint_weights(model: nn.Module) -> str:
    """Fingerprint of the parameters and buffers that a checkpoint holds: it stays when θ changes, and when the model
    is saved and loaded.

    Args:
        model (`PreTrainedModel` or `nn.Module`): its tensors are read one after the other, on the CPU.

    Raises:
        ValueError: some of its tensors are not loaded (they are on the device "meta").
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    _feed_tensors(digest, "weight", model.state_dict().items())
    return digest.hexdigest()


def answering_fields(config: Any) -> dict[str, str]:
    """The fields of a classifier's config that its answers may depend on beside its weights, such as the activation or
    the id of the padding token, each as JSON; not its classes.

    Args:
        config (`PretrainedConfig`): of a plain classifier.
    """
    fields = _lasting(config.to_dict())
    kept = {name: value for name, value in fields.items() if name not in UNREAD and "drop" not in name}
    return {name: _json(value).decode() for name, value in sorted(kept.items())}


def fingerprint_processor(processor: Any) -> str:
    """Fingerprint of what a tokenizer or image processor makes of a row: it stays when the processor is saved and
    loaded, and whatever rows it has read.

    Args:
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): its settings are read.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    if not hasattr(processor, "get_vocab"):
        _feed(digest, "image processor", _json(_lasting(processor.to_dict())))
        return digest.hexdigest()
    settings = {name: getattr(processor, name, None) for name in TOKENIZER_SETTINGS}
    _feed(digest, "settings", _json(settings))
    if hasattr(processor, "backend_tokenizer"):
        backend = json.loads(processor.backend_tokenizer.to_str())
        # What the last call left behind.
        _feed(digest, "backend", _json({**backend, "truncation": None, "padding": None}))
        return digest.hexdigest()
    _feed(digest, "vocabulary", _json(processor.get_vocab()))
    with TemporaryDirectory() as folder:
        for path in sorted(processor.save_vocabulary(folder)):
            _feed(digest, "file", Path(path).read_bytes())
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _feed_tensors(digest: Any, kind: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        if tensor.is_meta:
            raise ArgumentError("model", f"must be loaded to be fingerprinted, but {name!r} is on the device 'meta'")
        _feed(digest, f"{kind} {name}", b"")
        _feed_tensor(digest, tensor)


def _stored_rows(dataset: Any, columns: Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
    if hasattr(dataset, "with_format") and hasattr(dataset, "column_names"):
        there = dataset.column_names
        names = [name for name in there if (name not in ANSWERS if columns is None else name in columns)]
        for table in dataset.with_format("arrow").iter(batch_size=ROWS_PER_READ):
            yield from table.select(names or there).to_pylist()
        return
    for i in range(len(dataset)):
        row = dataset[i]
        if not isinstance(row, Mapping):
            raise ArgumentError("dataset", f"must have dicts as rows, but row {i} is a {type(row).__name__}")
        yield row


def _lasting(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {str(name): _lasting(value) for name, value in config.items() if name not in VOLATILE}
    return config


def _feed(digest: Any, kind: str, content: Any) -> None:
    """Kind and length come first, so that no two sequences of values feed the same bytes."""
    digest.update(f"{kind}:{memoryview(content).nbytes}:".encode())
    digest.update(content)


def _feed_tensor(digest: Any, tensor: torch.Tensor) -> None:
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None and not type(tensor).__module__.startswith("torch."):
        # A quantized weight: whole numbers with their scales.
        names, context = flatten()
        _feed(digest, f"{type(tensor).__name__} of {len(names)}", repr(context).encode())
        for name in names:
            _feed_tensor(digest, getattr(tensor, name))
        return
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    _feed(digest, _array_kind(tensor), content)


def _array_kind(array: Any) -> str:
    return f"array {str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"


def _feed_value(digest: Any, value: Any, column: str) -> None:
    if isinstance(value, str):
        _feed(digest, "text", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        _feed(digest, "bytes", value)
    elif isinstance(value, torch.Tensor):
        _feed_tensor(digest, value)
    elif hasattr(value, "dtype") and value.dtype.hasobject:
        _feed_value(digest, value.tolist(), column)
    elif hasattr(value, "dtype"):
        _feed(digest, _array_kind(value), value.tobytes())
    elif hasattr(value, "mode") and hasattr(value, "tobytes"):
        _feed(digest, f"image {value.mode} {value.size}", value.tobytes())
    elif isinstance(value, list | tuple):
        _feed_list(digest, value, column)
    elif isinstance(value, Mapping):
        _feed_mapping(digest, value, column)
    elif value is None or isinstance(value, bool | int | float | date | time | timedelta | Decimal):
        _feed(digest, "value", repr(value).encode())
    else:
        raise ArgumentError(
            "columns",
            f"must hold values of known kinds, but {column!r} holds a {type(value).__name__}",
        )


def _feed_list(digest: Any, values: Sequence[Any], column: str) -> None:
    # Token ids and pixels: one piece of text for all of them is many times faster than one each.
    if all(type(value) in (int, float) for value in values):
        _feed(digest, "numbers", repr(list(values)).encode())
        return
    _feed(digest, f"list of {len(values)}", b"")
    for value in values:
        _feed_value(digest, value, column)


def _feed_mapping(digest: Any, value: Mapping[str, Any], column: str) -> None:
    if set(value) == {"bytes", "path"}:
        # How datasets stores images and audio; a folder of pictures is stored as paths. The content counts, since the
        # same file may lie elsewhere tomorrow, or twice today.
        content, path = value["bytes"], value["path"]
        if content is None and path is not None and os.path.isfile(path):
            content = Path(path).read_bytes()
        _feed_value(digest, path if content is None else content, column)
        return
    _feed(digest, f"dict of {len(value)}", b"")
    for name in sorted(value):
        _feed_value(digest, name, column)
        _feed_value(digest, value[name], column)
