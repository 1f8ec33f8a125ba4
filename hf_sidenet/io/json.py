# SPDX-License-Identifier: Apache-2.0
"""Strict JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any


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
