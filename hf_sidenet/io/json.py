# SPDX-License-Identifier: Apache-2.0
"""JSON that every reader takes."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(document: Mapping[str, Any]) -> str:
    """A document as strict JSON, indented: null where a number is not finite.

    Args:
        document (`Mapping[str, Any]`): of values that JSON has; keys become strings, tuples lists.
    """
    return json.dumps(strict(document), indent=2, ensure_ascii=False, allow_nan=False)


def strict(value: Any) -> Any:
    """A value as JSON has it: dicts with strings as keys, lists, and `None` for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
