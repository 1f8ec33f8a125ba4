# SPDX-License-Identifier: Apache-2.0
"""What holds for each field of a [`SideNetConfig`]: checks that return the normalized value."""

import math
from collections.abc import Callable
from itertools import pairwise
from numbers import Real
from typing import Any

from .errors import ArgumentError


# Of the tables of a SideNet before the first block, of its other sizes, and of the special tokens.
MOST_ENTRIES, MOST_WIDTH, MOST_SPECIAL = 2**24, 2**11, 1_000
TABLES = ("num_buckets", "num_ngrams", "vocab_size")


def checked_exit_layers(exit_layers: Any, block_shapes: list | None) -> list[int]:
    rule = "`exit_layers` must be a list of block counts, strictly rising integers from 0 to (number of blocks - 1)"
    if not isinstance(exit_layers, list | tuple) or not exit_layers:
        raise ValueError(f"{rule}, at least one, got {exit_layers!r}.")
    if not all(map(is_count, exit_layers)):
        raise ValueError(f"{rule}, got {exit_layers!r}.")
    if any(a >= b for a, b in pairwise(exit_layers)):
        raise ValueError(f"{rule}, got {exit_layers!r}.")
    if block_shapes is not None and exit_layers[-1] > len(block_shapes):
        raise ValueError(f"{rule}; this MainNet has {len(block_shapes) + 1} blocks, got {exit_layers!r}.")
    return list(exit_layers)


def checked_chain(chain: Any, num_sidenets: int) -> list[list[float]] | None:
    if chain is None:
        return None
    lists = list(chain) if isinstance(chain, list | tuple) else []
    if len(lists) != num_sidenets or not all(isinstance(weights, list | tuple) for weights in lists):
        raise ArgumentError("chain", f"must be None or have a list of weights for each of {num_sidenets} exits", chain)
    return [numbers("chain", weights, i, "a number", lambda _: True) for i, weights in enumerate(lists, start=1)]


def check_input_sidenet(sizes: Any) -> None:
    if sizes is None:
        return
    if not isinstance(sizes, dict):
        raise ArgumentError("input_sidenet", "must be a dict or None", sizes)
    for name, size in sizes.items():
        if isinstance(size, list | tuple):
            fits = len(size) <= MOST_SPECIAL and all(map(is_count, size))
        else:
            fits = is_positive(size) and size <= (MOST_ENTRIES if name in TABLES else MOST_WIDTH)
        if not fits:
            raise ArgumentError(
                "input_sidenet",
                f"must have integers from 1 to {MOST_ENTRIES:,} (tables) or {MOST_WIDTH:,}, or lists of up to "
                f"{MOST_SPECIAL:,} ids, got {name}={size!r}",
            )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(name, f"must be one of {', '.join(map(repr, allowed))}", value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_positive(value: Any) -> bool:
    return is_count(value) and value >= 1


def by_index(id2label: dict[Any, Any]) -> dict[int, Any]:
    """Return `id2label` with integer keys: JSON keys are strings."""
    try:
        labels = {int(key): value for key, value in id2label.items()}
    except (TypeError, ValueError):
        labels = {}
    if sorted(labels) != list(range(len(id2label))):
        raise ArgumentError("id2label", "must have the keys 0, 1, ..., one per class", id2label)
    return labels


def is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(is_positive, value))


def numbers(name: str, value: Any, count: int, rule: str, holds: Callable[[float], bool]) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    one_per(name, values, count)
    for number in values:
        if not _is_finite(number) or not holds(number):
            raise ArgumentError(name, f"must be finite and {rule}", number)
    return [float(number) for number in values]


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def one_per(name: str, values: list, count: int) -> None:
    if len(values) != count:
        raise ArgumentError(name, f"must have {count} values or one for all of them, got {len(values)}: {values!r}")
