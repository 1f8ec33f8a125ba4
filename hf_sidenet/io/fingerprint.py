# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of rows and models: equal contents give equal fingerprints, in every process and on every machine.

They show whether cached results still belong to given rows and weights, and whether two data sets have rows in common.
A row is identified only by its inputs, as stored: a text by its characters, an image by the bytes of its file.
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


# Columns with the answer to a row rather than its inputs.
ANSWERS = LABEL_INPUTS | {"label"}
# Config fields about a model's origin and past use, which affect no answer. The tensors determine the dtype.
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
# Further config fields of a classifier that affect no answer, besides those for training.
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
# Tokenizer settings that affect answers, besides vocabulary and rules; the caller chooses where to truncate.
TOKENIZER_SETTINGS = ("pad_token_id", "padding_side", "truncation_side", "model_input_names")
# 128 bits: enough to avoid accidental collisions.
DIGEST_SIZE = 16
ROWS_PER_READ = 1000
WORDS = re.compile(r"\w+")


def row_keys(dataset: Any, columns: Sequence[str] | None = None) -> list[str]:
    """Return a hash of the inputs of every row.

    Args:
        dataset (`datasets.Dataset` or a map-style data set):
            A `datasets.Dataset` is read as stored: nothing is decoded and no transform runs. Rows of other data sets
            are the dicts `dataset[i]`, with their tensors, arrays, images and lists.
        columns (`Sequence[str]`, *optional*, defaults to every column but the labels):
            The inputs, in this order (alphabetical by default). Names do not matter, so a text is recognized in files
            with other column names.

    Returns:
        `list[str]`: one key of 32 hexadecimal digits per row, in the order of the data set.

    Raises:
        ValueError: `columns` is empty or names a missing column, the data set cannot be indexed, or a value has an
            unknown type.
    """
    if columns is not None and (isinstance(columns, str) or len(columns) == 0):
        raise ArgumentError("columns", "must be a list of at least one name", columns)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ArgumentError("dataset", f"must be a map-style data set, got a {type(dataset).__name__}")
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
    """Return a hash of the contents of every row of texts, ignoring case, spaces and punctuation.

    Args:
        texts (`Sequence[str]`): texts of every row; two sequences for pairs.
    """
    keys = []
    for row in zip(*texts, strict=True):
        digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        for text in row:
            folded = unicodedata.normalize("NFKC", text).casefold()
            # A row may consist only of punctuation.
            _feed(digest, "text", (" ".join(WORDS.findall(folded)) or folded.strip()).encode(errors="surrogatepass"))
        keys.append(digest.hexdigest())
    return keys


def fingerprint_rows(keys: Iterable[str]) -> str:
    """Return one fingerprint of many rows, in order, from the keys of [`row_keys`]."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for key in keys:
        _feed(digest, "key", key.encode())
    return digest.hexdigest()


def fingerprint_model(model: nn.Module) -> str:
    """Fingerprint a model's class, config, parameters and buffers, but not its origin.

    The fingerprint depends on the dtype of the weights, but not on their device.

    Args:
        model (`PreTrainedModel` or `nn.Module`): the model; its tensors are read one by one, on the CPU.

    Raises:
        ValueError: some tensors are not loaded (they are on the device "meta").
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    config: Any = getattr(model, "config", None)
    fields = {} if config is None else config.to_dict()
    _feed(digest, f"model {type(model).__name__}", _json(_lasting(fields)))
    _feed_tensors(digest, "parameter", model.named_parameters())
    _feed_tensors(digest, "buffer", model.named_buffers())
    return digest.hexdigest()


def fingerprint_weights(model: nn.Module) -> str:
    """Fingerprint the parameters and buffers in a model's checkpoint.

    Changing θ, or saving and loading the model, does not change the fingerprint.

    Args:
        model (`PreTrainedModel` or `nn.Module`): the model; its tensors are read one by one, on the CPU.

    Raises:
        ValueError: some tensors are not loaded (they are on the device "meta").
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    _feed_tensors(digest, "weight", model.state_dict().items())
    return digest.hexdigest()


def fingerprint_exits(config: Any, sidenets: nn.Module | None) -> str:
    """Recognize a checkpoint by its config and its SideNets, without reading the MainNet, which may be large.

    Other weights of the MainNet alone do not change it.

    Args:
        config (`PretrainedConfig`): config of the checkpoint.
        sidenets (`nn.Module`, *optional*): its SideNets; `None` if only the config is known.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    _feed(digest, "config", _json(_lasting(config.to_dict())))
    found: dict[str, Any] = {} if sidenets is None else dict(sidenets.state_dict())
    # Packed weights of quantized layers are not tensors, and weights on "meta" are elsewhere.
    loaded = {name: value for name, value in found.items() if isinstance(value, torch.Tensor) and not value.is_meta}
    _feed_tensors(digest, "weight", loaded.items())
    return digest.hexdigest()


def answering_fields(config: Any) -> dict[str, str]:
    """Return the config fields that a classifier's answers may depend on, besides its weights and classes, as JSON.

    Examples are the activation and the id of the padding token.

    Args:
        config (`PretrainedConfig`): config of a plain classifier.
    """
    fields = _lasting(config.to_dict())
    kept = {name: value for name, value in fields.items() if name not in UNREAD and "drop" not in name}
    return {name: _json(value).decode() for name, value in sorted(kept.items())}


def fingerprint_processor(processor: Any) -> str:
    """Fingerprint the behavior of a tokenizer or image processor.

    Saving and loading the processor, or using it, does not change the fingerprint.

    Args:
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): the processor.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    if not hasattr(processor, "get_vocab"):
        _feed(digest, "image processor", _json(_lasting(processor.to_dict())))
        return digest.hexdigest()
    settings = {name: getattr(processor, name, None) for name in TOKENIZER_SETTINGS}
    _feed(digest, "settings", _json(settings))
    if hasattr(processor, "backend_tokenizer"):
        backend = json.loads(processor.backend_tokenizer.to_str())
        # Drop what the last call left behind.
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
    """Feed a value to a digest, with a prefix of kind and length to avoid ambiguous sequences."""
    digest.update(f"{kind}:{memoryview(content).nbytes}:".encode())
    digest.update(content)


def _feed_tensor(digest: Any, tensor: torch.Tensor) -> None:
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None and not type(tensor).__module__.startswith("torch."):
        # A quantized weight: integers with their scales.
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
            f"must contain values of known types, but {column!r} contains a {type(value).__name__}",
        )


def _feed_list(digest: Any, values: Sequence[Any], column: str) -> None:
    # For token ids and pixels: hashing them as one text is many times faster than one by one.
    if all(type(value) in (int, float) for value in values):
        _feed(digest, "numbers", repr(list(values)).encode())
        return
    _feed(digest, f"list of {len(values)}", b"")
    for value in values:
        _feed_value(digest, value, column)


def _feed_mapping(digest: Any, value: Mapping[str, Any], column: str) -> None:
    if set(value) == {"bytes", "path"}:
        # How datasets stores images and audio; a folder of images is stored as paths. Hash the content, because a file
        # may be moved or copied.
        content, path = value["bytes"], value["path"]
        if content is None and path is not None and os.path.isfile(path):
            content = Path(path).read_bytes()
        _feed_value(digest, path if content is None else content, column)
        return
    _feed(digest, f"dict of {len(value)}", b"")
    for name in sorted(value):
        _feed_value(digest, name, column)
        _feed_value(digest, value[name], column)
