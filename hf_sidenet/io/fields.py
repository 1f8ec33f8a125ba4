# SPDX-License-Identifier: Apache-2.0
"""Check the fields of documents read from files."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Rule:
    """Rule for a field.

    Args:
        words (`str`): the rule in words, to follow "must be".
        holds (`Callable`): whether a value satisfies the rule.
        required (`bool`, *optional*, defaults to `True`): whether the field is required.
    """

    words: str
    holds: Callable[[Any], bool]
    required: bool = True


def check_fields(document: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    """Check a document against rules.

    Args:
        document (`Mapping[str, Any]`): the document.
        rules (`Mapping[str, Rule]`): rules by field; `"a.b"` is `b` in the object `a`, whose own rule must come first.
        where (`str`): name of the document, for the message.

    Raises:
        ValueError: a field breaks its rule; the message names the field, the rule and the value.
    """
    for name, rule in rules.items():
        *above, last = name.split(".")
        value: Any = document
        for part in above:
            value = value.get(part, {})
        if last not in value:
            if rule.required:
                raise ValueError(f"{where}: `{name}` must be {rule.words}, but is missing.")
        elif not rule.holds(value[last]):
            raise ValueError(f"{where}: `{name}` must be {rule.words}, got {_short(value[last])}.")


def is_count(value: Any) -> bool:
    """Return whether a value is an integer ≥ 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    # JSON integers can be too large for a float.
    except OverflowError:
        return False


def is_text(value: Any) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """Return whether a value is a JSON object."""
    return isinstance(value, dict)


def is_map(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Return whether a value is a JSON object whose values all satisfy a rule."""
    return isinstance(value, dict) and all(map(holds, value.values()))


def is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Return whether a value is a nonempty list whose items all satisfy a rule."""
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
