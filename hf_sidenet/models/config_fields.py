# SPDX-License-Identifier: Apache-2.0
"""The fields of [`SideNetConfig`]: what each must be; one value for all becomes one per exit."""

import math
from itertools import pairwise
from numbers import Real
from typing import Any


def checked_exit_layers(exit_layers: Any, block_shapes: list | None) -> list[int]:
    rule = "`exit_layers` must be a list of block counts, strictly rising integers from 1 to (number of blocks - 1)"
    if not isinstance(exit_layers, list | tuple) or not exit_layers:
        raise ValueError(f"{rule}, at least one, got {exit_layers!r}.")
    if not all(map(is_count, exit_layers)):
        raise ValueError(f"{rule}, got {exit_layers!r}.")
    if any(a >= b for a, b in pairwise(exit_layers)):
        raise ValueError(f"{rule}, got {exit_layers!r}.")
    if block_shapes is not None and exit_layers[-1] > len(block_shapes):
        raise ValueError(f"{rule}; this MainNet has {len(block_shapes) + 1} blocks, got {exit_layers!r}.")
    return list(exit_layers)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def by_index(id2label: dict[Any, Any]) -> dict[int, Any]:
    """JSON has names as keys only."""
    try:
        labels = {int(key): value for key, value in id2label.items()}
    except (TypeError, ValueError):
        labels = {}
    if sorted(labels) != list(range(len(id2label))):
        raise ValueError(f"`id2label` must have the keys 0, 1, ..., one per class, got {id2label!r}.")
    return labels


def is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(is_count, value))


def numbers(name: str, value: Any, count: int, rule: str, holds) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    one_per(name, values, count)
    for number in values:
        if not _is_finite(number) or not holds(number):
            raise ValueError(f"`{name}` must be finite and {rule}, got {number!r}.")
    return [float(number) for number in values]


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def one_per(name: str, values: list, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"`{name}` must have {count} values or one for all of them, got {len(values)}: {values!r}.")
