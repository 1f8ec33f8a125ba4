# SPDX-License-Identifier: Apache-2.0
"""Read and write strict JSON."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def read_json(path: str | os.PathLike, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        path (`str` or `os.PathLike`): the file.
        parse_constant (`Callable[[str], Any]`, *optional*): called for `NaN` and `Infinity`, see `json.loads`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=parse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_object(path: str | os.PathLike, parse_constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Read a JSON file that contains an object; see [`read_json`].

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, is nested too deeply, or contains something else.
    """
    document = read_json(path, parse_constant)
    if not isinstance(document, dict):
        raise ValueError(f"must be a JSON object, got a {type(document).__name__}")
    return document


def json_text(document: Mapping[str, Any]) -> str:
    """Format a document as strict, indented JSON, with null for numbers that are not finite.

    Args:
        document (`Mapping[str, Any]`): the document; keys become strings, and tuples become lists.
    """
    return json.dumps(strict(document), indent=2, ensure_ascii=False, allow_nan=False)


def strict(value: Any) -> Any:
    """Convert a value to strict JSON types: dicts with string keys, lists, and `None` for non-finite numbers."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
