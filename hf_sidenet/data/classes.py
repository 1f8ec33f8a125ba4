# SPDX-License-Identifier: Apache-2.0
"""Which output of a MainNet each label of a data set means: the one rule of every command, script and page.

In this order:

1. names that somebody gave for the outputs, `labels`;
2. the MainNet's own names, apart from case, spaces, underscores and hyphens; whole numbers and `LABEL_3` are indices;
3. the order of a `datasets.ClassLabel`, unless a library made it by sorting;
4. for a MainNet whose last layer is still to learn them, the order of the training rows.

Anything else is refused: names are never sorted for a MainNet that has learned its classes. Whether a mapping is the
right one is not known here; [`check_class_order`] holds it against the MainNet's answers.
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
OTHER_NAMES = "Where that is another name of one of them, `labels` must name the MainNet's outputs in their order."
MAINNET = "the MainNet"
SHOWN = 10
NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.0*)?")
FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:e[+-]?[0-9]+)?", re.IGNORECASE)
LABEL_INDEX = re.compile(r"(?:label )?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class ClassMap:
    """Labels of a data set as outputs of a MainNet.

    Args:
        names (`tuple[str, ...]`): of the classes, in the order of the outputs.
        indices (`Mapping[str, int]`): output of each label, as the data spell it.
        how (`str`): what the order is taken from, in words that follow "The classes are mapped".
    """

    names: tuple[str, ...]
    indices: Mapping[str, int]
    how: str

    def about(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"names": list(self.names), "labels": dict(self.indices), "how": self.how}

    def text(self) -> str:
        """The mapping in a line: `"bad → 0 (negative), good → 1 (positive)"`, at most ten labels."""
        shown = [
            f"{label} → {index}" + ("" if label == self.names[index] else f" ({self.names[index]})")
            for label, index in sorted(self.indices.items(), key=lambda item: item[1])
        ]
        return listed(shown)


def names_nothing(names: Sequence[str]) -> bool:
    """Whether these are no names: `LABEL_0`, `LABEL_1`, ..., or the bare numbers."""
    return all(_index(name) == index for index, name in enumerate(names))


def indexed_classes(names: Sequence[str]) -> ClassMap:
    """The mapping of labels that are indices already."""
    return ClassMap(tuple(names), {str(index): index for index in range(len(names))}, INDEX)


def moved_names(names: Sequence[str], own: Sequence[str]) -> list[str]:
    """Names of the MainNet's classes, in any spelling, that stand at another place than its own."""
    find = _find(own)
    return [name for place, name in enumerate(names) if find(name) not in (None, place)]


def spelled(value: Any) -> str | None:
    """A label as text, `None` where there is none. Numbers that are whole have no fraction."""
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
    """The output that each label means.

    Args:
        values (`Iterable[str]`): the labels, as [`spelled`].
        own (`Sequence[str]`): names of the MainNet's classes, in the order of its outputs.
        ordered (`Sequence[str]`, *optional*): names in an order that somebody gave with the data.
        labels (`Sequence[str]`, *optional*): names of the outputs, in their order, which win.
        new_head (`bool`, *optional*, defaults to `False`):
            Whether the MainNet is still to learn which output is which class, so that any order does.
        learned (`Iterable[str]`): with `new_head`, the labels of the training rows.

    Returns:
        [`ClassMap`]: of all `values`, except, with `new_head`, those that the training rows have not.

    Raises:
        UnknownClassError: the MainNet has no such class.
        ValueError: nothing says which output these names are, or `labels` are impossible.
    """
    values = list(dict.fromkeys(values))
    if labels is not None:
        if isinstance(labels, str | bytes | Mapping | Set):
            raise ArgumentError("labels", "must be a list of names", labels)
        return _given(values, own, [str(label) for label in labels], new_head)
    known = [name for name in values if _find(own)(name) is not None]
    find, ordered = _find_or_index(own), list(ordered or ())
    found = {value: find(value) for value in values}
    # Numbers that are names of other things are not the MainNet's indices: all of them must be.
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
        f"must name the MainNet's {len(own)} outputs in their order, since it has no names "
        f"for them and the data have {_shown(sorted(values))}, got None",
    )


class UnknownClassError(ValueError):
    """A label that is no class of the MainNet.

    Args:
        label (`str`): as the data spell it.
        known (`Sequence[str]`): the classes that there are.
        owner (`str`, *optional*): who has them.
    """

    def __init__(self, label: str, known: Sequence[str], owner: str = MAINNET):
        self.label, self.known, self.owner = label, known, owner
        super().__init__(f"labels must be classes that {owner} has, {_shown(known)}, got {label!r}.")

    def where(self, split: str, row: int) -> ArgumentError:
        """The error with the place: the number of the row counts from 1."""
        return ArgumentError(
            split,
            f"must hold classes that {self.owner} has, {_shown(self.known)}, got {self.label!r} in row {row:,}",
            advice=OTHER_NAMES if self.owner == MAINNET else "",
        )


def listed(items: Sequence[str]) -> str:
    """At most ten items with commas between them."""
    return ", ".join(items[:SHOWN]) + (f", … ({len(items):,} in all)" if len(items) > SHOWN else "")


def _given(values: list[str], own: Sequence[str], labels: list[str], new_head: bool) -> ClassMap:
    twice = [label for label, count in Counter(labels).items() if count > 1]
    blank = any(not label.strip() for label in labels)
    if twice or blank or len(labels) < 2:
        raise ArgumentError("labels", f"must be different names, two or more, got {labels}")
    if len(labels) != len(own) and not new_head:
        raise ArgumentError(
            "labels",
            f"must name each of the MainNet's {len(own)} outputs, also classes that the data "
            f"have not, got {len(labels)}: {_shown(labels)}",
        )
    find = _find(labels)
    for value in values:
        if find(value) is None:
            raise UnknownClassError(value, labels, "`labels`")
    # Names of the MainNet that are the same in another order are contradicted; others are kept.
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
        raise ArgumentError("label_column", f"must hold names or indices of classes, got {_shown(sorted(train))}")
    else:
        names = sorted(train)
    find = _find_or_index(names)
    unknown = [value for value in values if find(value) is None]
    if unknown:
        raise UnknownClassError(unknown[0], names, "train")
    return ClassMap(tuple(names), _indices(find, values), LEARNED)


def _indices(find: Callable[[str], int | None], values: Iterable[str]) -> dict[str, int]:
    """Of values that are all found."""
    return {value: index for value in values if (index := find(value)) is not None}


def _find(names: Sequence[str]) -> Callable[[str], int | None]:
    """Finds a name as it is, else apart from its spelling; one that stands for two classes is not found."""
    tables: list[dict[str, int]] = []
    for key in (str, _key):
        counts = Counter(map(key, names))
        tables.append({key(name): index for index, name in enumerate(names) if counts[key(name)] == 1})
    exact, loose = tables
    return lambda value: exact.get(value, loose.get(_key(value)))


def _find_or_index(names: Sequence[str]) -> Callable[[str], int | None]:
    """A number is an index, unless numbers are names."""
    find = _find(names)
    numbered = not names_nothing(names) and any(NUMBER.fullmatch(name) for name in names)

    def found(value: str) -> int | None:
        index = find(value)
        if index is None and not numbered:
            index = _index(value)
        return index if index is not None and index < len(names) else None

    return found


def _key(name: str) -> str:
    """What is left of a name apart from its spelling. Signs count: `-1` is not `1`, nor `A-` an `A`."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").strip()
    if NUMBER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return re.sub(r"(?<=\w)[\s-]+(?=\w)", " ", text) or name


def _index(name: str) -> int | None:
    match = LABEL_INDEX.fullmatch(_key(name))
    return int(match[1]) if match else None


def _number(name: str) -> int | None:
    """Of a whole number or `LABEL_3`."""
    key = _key(name)
    return int(key) if NUMBER.fullmatch(key) else _index(name)


def _shown(names: Sequence[str]) -> str:
    return f"[{listed([repr(str(name)) for name in names])}]"
