# SPDX-License-Identifier: Apache-2.0
"""Documents that are read from files: is every field what it must be?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Rule:
    """What a field must be.

    Args:
        words (`str`): the rule, after "must be".
        holds (`Callable`): whether a value keeps it.
        required (`bool`, *optional*, defaults to `True`): whether it must be there.
    """

    words: str
    holds: Callable[[Any], bool]
    required: bool = True


def check_fields(document: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    """Hold a document against rules.

    Args:
        document (`Mapping[str, Any]`): as it was read.
        rules (`Mapping[str, Rule]`): by field; `"a.b"` is `b` in the object `a`. `a` has a rule of its own before it.
        where (`str`): what the document is, for the message.

    Raises:
        ValueError: names the field, the rule and the value.
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
    """A whole number ≥ 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    # JSON has integers that no float can hold.
    except OverflowError:
        return False


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """A JSON object."""
    return isinstance(value, dict)


def is_map(value: Any, holds: Callable[[Any], bool]) -> bool:
    """A JSON object whose values all keep a rule."""
    return isinstance(value, dict) and all(map(holds, value.values()))


def is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    """A list with at least one item, which all keep a rule."""
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
