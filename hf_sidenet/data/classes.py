# SPDX-License-Identifier: Apache-2.0
"""Map labels of a data set to outputs of a MainNet: the single rule for every command, script and page.

In this order:

1. the names of the outputs passed as `labels`;
2. the MainNet's own names, ignoring case, spaces, underscores and hyphens; integers and `LABEL_3` are indices;
3. the order of a `datasets.ClassLabel`, unless a library created it by sorting;
4. for a MainNet whose last layer is not trained yet, the order of the training rows.

Anything else is rejected: names are never sorted for a MainNet with trained classes. Whether a mapping is correct
cannot be checked here; [`check_class_order`] checks it against the MainNet's answers.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ..models.errors import ArgumentError


GIVEN, NAME, INDEX, CLASS_LABEL, LEARNED = (
    "in the order that was given",
    "by name",
    "by index",
    "in the order of the data set's ClassLabel",
    "in the order of the training rows, which the MainNet is to learn",
)
OTHER_NAMES = "If that is another name for one of them, `labels` must name the MainNet's outputs in order."
MAINNET = "the MainNet"
SHOWN = 10
NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.0*)?")
FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:e[+-]?[0-9]+)?", re.IGNORECASE)
LABEL_INDEX = re.compile(r"(?:label )?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class ClassMap:
    """Labels of a data set as outputs of a MainNet.

    Args:
        names (`tuple[str, ...]`): names of the classes, in the order of the outputs.
        indices (`Mapping[str, int]`): output of each label, as spelled in the data.
        how (`str`): where the order comes from, to follow "The classes are mapped".
    """

    names: tuple[str, ...]
    indices: Mapping[str, int]
    how: str

    def about(self) -> dict[str, Any]:
        """Return the fields for a report."""
        return {"names": list(self.names), "labels": dict(self.indices), "how": self.how}

    def text(self) -> str:
        """Return the mapping in one line: `"bad → 0 (negative), good → 1 (positive)"`, at most ten labels."""
        shown = [
            f"{label} → {index}" + ("" if label == self.names[index] else f" ({self.names[index]})")
            for label, index in sorted(self.indices.items(), key=lambda item: item[1])
        ]
        return listed(shown)


def names_nothing(names: Sequence[str]) -> bool:
    """Return whether these are only placeholders: `LABEL_0`, `LABEL_1`, ..., or the bare indices."""
    return all(_index(name) == index for index, name in enumerate(names))


def indexed_classes(names: Sequence[str]) -> ClassMap:
    """Return the mapping for labels that are already indices."""
    return ClassMap(tuple(names), {str(index): index for index in range(len(names))}, INDEX)


def moved_names(names: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return names of the MainNet's classes, in any spelling, that are not at the MainNet's index."""
    find = _find(own)
    return [name for place, name in enumerate(names) if find(name) not in (None, place)]


def spelled(value: Any) -> str | None:
    """Return a label as text, without the fraction of an integral float; `None` if missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    return text if text.strip() else None


def match_classes(
    values: Iterable[str],
    own: Sequence[str],
    *,
    ordered: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    new_head: bool = False,
    learned: Iterable[str] = (),
) -> ClassMap:
    """Map each label to an output.

    Args:
        values (`Iterable[str]`): labels, as returned by [`spelled`].
        own (`Sequence[str]`): names of the MainNet's classes, in the order of its outputs.
        ordered (`Sequence[str]`, *optional*): names in the order that comes with the data.
        labels (`Sequence[str]`, *optional*): names of the outputs, in order; takes precedence.
        new_head (`bool`, *optional*, defaults to `False`):
            Whether the MainNet still has to be trained on its classes, so that any order works.
        learned (`Iterable[str]`): with `new_head`, the labels of the training rows.

    Returns:
        [`ClassMap`]: mapping of all `values`.

    Raises:
        UnknownClassError: a label is not a class of the MainNet or, with `new_head`, of the training rows.
        ValueError: the outputs of these names cannot be determined, or `labels` is invalid.
    """
    values = list(dict.fromkeys(values))
    if labels is not None:
        if isinstance(labels, str | bytes | Mapping | Set):
            raise ArgumentError("labels", "must be a list of names", labels)
        return _given(values, own, [str(label) for label in labels], new_head)
    known = [name for name in values if _find(own)(name) is not None]
    find, ordered = _find_or_index(own), list(ordered or ())
    found = {value: find(value) for value in values}
    # Numbers that name other things are not the MainNet's indices: all must be.
    indexed = len(known) == len(values) or all(find(name) is not None for name in ordered)
    learns = new_head and not known and len(values) != len(own)
    if None not in found.values() and indexed and not learns:
        return ClassMap(tuple(own), _indices(find, values), NAME if known else INDEX)
    if new_head:
        return _learned(values, list(dict.fromkeys(learned)), ordered)
    order = _find_or_index(ordered)
    if not known and len(ordered) == len(own) and all(order(value) is not None for value in values):
        names = ordered if names_nothing(own) else own
        return ClassMap(tuple(names), _indices(order, values), CLASS_LABEL)
    unknown = [value for value in values if found[value] is None]
    if not names_nothing(own) or known or all(_index(value) is not None for value in values):
        raise UnknownClassError((unknown or values)[0], own)
    raise ArgumentError(
        "labels",
        f"must name the MainNet's {len(own)} outputs in order, because it has no names for "
        f"them and the data has {_shown(sorted(values))}, got None",
    )


class UnknownClassError(ValueError):
    """Label that is not a class of the MainNet.

    Args:
        label (`str`): the label, as spelled in the data.
        known (`Sequence[str]`): the known classes.
        owner (`str`, *optional*): what has these classes, for the message.
    """

    def __init__(self, label: str, known: Sequence[str], owner: str = MAINNET):
        self.label, self.known, self.owner = label, known, owner
        super().__init__(f"labels must be classes of {owner}, {_shown(known)}, got {label!r}.")

    def where(self, split: str, row: int) -> ArgumentError:
        """Return the error with its place; rows are numbered from 1."""
        return ArgumentError(
            split,
            f"must contain classes of {self.owner}, {_shown(self.known)}, got {self.label!r} in row {row:,}",
            advice=OTHER_NAMES if self.owner == MAINNET else "",
        )


def listed(items: Sequence[str]) -> str:
    """Join at most ten items with commas."""
    return ", ".join(items[:SHOWN]) + (f", … ({len(items):,} in total)" if len(items) > SHOWN else "")


def _given(values: list[str], own: Sequence[str], labels: list[str], new_head: bool) -> ClassMap:
    twice = [label for label, count in Counter(labels).items() if count > 1]
    blank = any(not label.strip() for label in labels)
    if twice or blank or len(labels) < 2:
        raise ArgumentError("labels", f"must be different names, two or more, got {labels}")
    if len(labels) != len(own) and not new_head:
        raise ArgumentError(
            "labels",
            f"must name each of the MainNet's {len(own)} outputs, even classes missing from the "
            f"data, got {len(labels)}: {_shown(labels)}",
        )
    find = _find(labels)
    for value in values:
        if find(value) is None:
            raise UnknownClassError(value, labels, "`labels`")
    # Override the MainNet's names if they are the same in another order; keep others.
    contradicted = sorted(map(_key, labels)) == sorted(map(_key, own))
    names = labels if new_head or contradicted or names_nothing(own) else own
    return ClassMap(tuple(names), _indices(find, values), GIVEN)


def _learned(values: list[str], train: list[str], ordered: Sequence[str]) -> ClassMap:
    numbers = {value: _number(value) for value in train}
    if ordered:
        names = list(ordered)
    elif None not in numbers.values():
        # "1" and "1.0" are one class.
        of_numbers = {number: value for value, number in numbers.items() if number is not None}
        names = [value for _, value in sorted(of_numbers.items())]
        if sorted(of_numbers) == list(range(len(names))):
            names = [f"LABEL_{index}" for index in range(len(names))]
    elif any(FRACTION.fullmatch(value) and number is None for value, number in numbers.items()):
        raise ArgumentError("label_column", f"must contain names or indices of classes, got {_shown(sorted(train))}")
    else:
        names = sorted(train)
    find = _find_or_index(names)
    unknown = [value for value in values if find(value) is None]
    if unknown:
        raise UnknownClassError(unknown[0], names, "train")
    return ClassMap(tuple(names), _indices(find, values), LEARNED)


def _indices(find: Callable[[str], int | None], values: Iterable[str]) -> dict[str, int]:
    """Return the index of each value, leaving out values not found."""
    return {value: index for value in values if (index := find(value)) is not None}


def _find(names: Sequence[str]) -> Callable[[str], int | None]:
    """Return a function that finds a name exactly, else loosely; ambiguous names are not found."""
    tables: list[dict[str, int]] = []
    for key in (str, _key):
        counts = Counter(map(key, names))
        tables.append({key(name): index for index, name in enumerate(names) if counts[key(name)] == 1})
    exact, loose = tables
    return lambda value: exact.get(value, loose.get(_key(value)))


def _find_or_index(names: Sequence[str]) -> Callable[[str], int | None]:
    """Return a function like [`_find`]'s that also accepts indices, unless numbers are names."""
    find = _find(names)
    numbered = not names_nothing(names) and any(NUMBER.fullmatch(name) for name in names)

    def found(value: str) -> int | None:
        index = find(value)
        if index is None and not numbered:
            index = _index(value)
        return index if index is not None and index < len(names) else None

    return found


def _key(name: str) -> str:
    """Normalize the spelling of a name. Signs matter: `-1` is not `1`, and `A-` is not `A`."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").strip()
    if NUMBER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return re.sub(r"(?<=\w)[\s-]+(?=\w)", " ", text) or name


def _index(name: str) -> int | None:
    match = LABEL_INDEX.fullmatch(_key(name))
    return int(match[1]) if match else None


def _number(name: str) -> int | None:
    """Parse an integer or `LABEL_3`."""
    key = _key(name)
    return int(key) if NUMBER.fullmatch(key) else _index(name)


def _shown(names: Sequence[str]) -> str:
    return f"[{listed([repr(str(name)) for name in names])}]"
