# SPDX-License-Identifier: Apache-2.0
"""Find the columns of a data set with the texts or images, and with the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..models.errors import ArgumentError
from ..models.modalities import IMAGE, MODALITIES, TEXT
from ..optional import require


if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.get_logger(__name__)

TEXTS = ("text", "sentence", "review", "content")
PAIRS = (
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "context"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
)
# Pairs of these that differ only in the ending: `text`, `text_pair`; `sentence1`, `sentence2`; `title_a`, `title_b`.
PAIR_STEMS = (*TEXTS, "question", "query", "premise", "answer", "passage", "document", "title", "sent", "s", "q")
USUAL_PAIRS = (("text", "text_pair"), ("sentence1", "sentence2"), *PAIRS)
PAIR_ENDS = (("", "_pair"), ("1", "2"), ("_1", "_2"), ("_a", "_b"))
IMAGES = ("image", "img")
# Number of rows whose cells are inspected.
SAMPLE = 100
# The first two are unambiguous; a data set may have both a category and a label.
LABELS = (("label", "labels"), ("class", "target", "category"))


@dataclass(frozen=True)
class Columns:
    """Columns of the inputs and the classes.

    Args:
        inputs (`tuple[str, ...]`): the column of the text, the two columns of a pair, or the column of the image.
        label (`str`): the column of the class, by name or index.
        modality (`str`, *optional*, defaults to `"text"`): modality of the inputs, `"text"` or `"image"`.
        unused (`tuple[str, ...]`): columns that look like texts but are not inputs.

    Raises:
        ValueError: the modality is unknown.
    """

    inputs: tuple[str, ...]
    label: str
    modality: str = TEXT.name
    unused: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self):
        if self.modality not in MODALITIES:
            raise ArgumentError("modality", f"must be one of {', '.join(MODALITIES)}", self.modality)


def find_columns(
    features: "Features",
    *,
    text_columns: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    sample: Mapping[str, Sequence[Any]] | None = None,
) -> Columns:
    """Find columns: the given ones, else those with a usual name or the only matching type.

    Args:
        features (`datasets.Features`): features of one split.
        text_columns (`Sequence[str]`, *optional*): one text column, or the two of a pair.
        image_column (`str`, *optional*): image column, instead of `text_columns`.
        label_column (`str`, *optional*): column of the class.
        sample (`Mapping[str, Sequence]`, *optional*):
            Some cells of every column, to distinguish texts from numbers and names.

    Raises:
        ImportError: datasets is not installed.
        ValueError: a given column does not exist or has another type, or no column or several columns match.
    """
    if text_columns is not None and image_column is not None:
        raise ValueError(
            f"pass only one of `text_columns` and `image_column`, got {text_columns} and {image_column!r}."
        )
    label = _label(features, label_column)
    if text_columns is None and image_column is None:
        image_column = _image(features)
    if image_column is not None:
        _must_exist("image_column", [image_column], features)
        if not is_image(features[image_column]) and not is_string(features[image_column]):
            raise ArgumentError("image_column", f"must contain images or their paths, got {features[image_column]}")
        inputs = (image_column,)
    else:
        inputs = tuple(text_columns) if text_columns is not None else _texts(features, label, sample or {})
        _must_exist("text_columns", inputs, features)
        if len(inputs) not in (1, 2):
            raise ArgumentError("text_columns", f"must be one column, or two for pairs, got {list(inputs)}")
        for name in inputs:
            if not is_string(features[name]):
                raise ArgumentError("text_columns", f"must contain texts, got {name!r} with {features[name]}")
    if label in inputs:
        raise ArgumentError("label_column", "must not also be an input", label)
    unused = [name for name in features if is_string(features[name]) and name not in (*inputs, label)]
    unused = tuple(name for name in unused if _has_words(name, sample or {})) if image_column is None else ()
    if unused:
        logger.warning(
            "Reading texts from %s. Not reading %s, which looks like texts too: choose with `text_columns`.",
            " and ".join(map(repr, inputs)),
            " and ".join(map(repr, unused)),
        )
    modality = TEXT if image_column is None else IMAGE
    return Columns(inputs, label, modality.name, unused)


def usual_inputs(names: Sequence[str], num_texts: int | None = None) -> list[tuple[str, ...]]:
    """Return columns whose names are usual for texts, in lower case.

    Args:
        names (`Sequence[str]`): names of all columns, in any case.
        num_texts (`int`, *optional*): 1 for single texts, 2 for pairs; by default both. Half a pair does not count as
            a single text.
    """
    spelled = [name.lower() for name in names]
    found = [pair for pair in PAIRS if all(name in spelled for name in pair)]
    alike = [(stem + first, stem + second) for stem in PAIR_STEMS for first, second in PAIR_ENDS]
    found += [pair for pair in alike if all(name in spelled for name in pair)]
    in_pairs = {name for pair in found for name in pair}
    found += [(name,) for name in TEXTS if name in spelled and name not in in_pairs]
    return [each for each in found if num_texts in (None, len(each))]


def sample_cells(rows: "Dataset") -> dict[str, list[Any]]:
    """Return the texts of the first rows."""
    strings = [name for name, feature in rows.features.items() if is_string(feature)]
    return rows.with_format(None).select_columns(strings)[:SAMPLE] if strings else {}


def unformatted(rows: "Dataset") -> "Dataset":
    """Return the rows with cells as stored, dropping the caller's format but keeping a transform."""
    return rows if rows.format["type"] in (None, "custom") else rows.with_format(None)


def is_image(feature: Any) -> bool:
    """Return whether this column type is decoded to images."""
    return isinstance(feature, require("datasets", "train").Image)


def is_string(feature: Any) -> bool:
    """Return whether this column type is text."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_plain(feature: Any) -> bool:
    """Return whether this column type is numeric or boolean, and so may contain classes."""
    return any(name in str(getattr(feature, "dtype", "")) for name in ("int", "float", "bool"))


def _label(features: "Features", given: str | None) -> str:
    class_label = require("datasets", "train").ClassLabel
    if given is not None:
        _must_exist("label_column", [given], features)
        found = [given]
    else:
        spelled = {name.lower(): name for name in features}
        found = []
        for names in LABELS:
            found = found or [spelled[name] for name in names if name in spelled]
        found = found or [name for name, feature in features.items() if isinstance(feature, class_label)]
    label = _only("label_column", found, [name for names in LABELS for name in names], features)
    feature = features[label]
    if not isinstance(feature, class_label) and not is_string(feature) and not _is_plain(feature):
        raise ArgumentError("label_column", f"must contain names or indices of classes, got {label!r} with {feature}")
    return label


def _image(features: "Features") -> str | None:
    """Return the image column, or `None` if there are no images."""
    found = [name for name, feature in features.items() if is_image(feature)]
    found = found or [name for name in features if name.lower() in IMAGES and is_string(features[name])]
    return _only("image_column", found, IMAGES, features) if found else None


def _texts(features: "Features", label: str, sample: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    spelled = {name.lower(): name for name in features if name != label}
    found = usual_inputs(list(spelled))
    if not found:
        strings = [name for name in spelled.values() if is_string(features[name])]
        # In a table every cell is text, even numbers.
        worded = [name for name in strings if _has_words(name, sample)]
        found = [(name.lower(),) for name in worded or strings]
    return tuple(spelled[name] for name in _only("text_columns", found, [*TEXTS, *USUAL_PAIRS], features))


def _has_words(name: str, sample: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether most cells have several words; `True` if there are no cells."""
    cells = [cell for cell in sample.get(name, ()) if isinstance(cell, str)]
    return not cells or 2 * sum(len(cell.split()) > 1 for cell in cells) > len(cells)


def _only(argument: str, found: list, usual: Sequence, features: "Features") -> Any:
    if not found:
        raise ArgumentError(argument, f"must be given if no column is one of {list(usual)}, got {list(features)}")
    if len(found) > 1:
        raise ArgumentError(argument, f"must be given if several columns match: {found} of {list(features)}")
    return found[0]


def _must_exist(argument: str, names: Sequence[str], features: "Features") -> None:
    missing = [name for name in names if name not in features]
    if missing:
        raise ArgumentError(argument, f"must be among the columns {list(features)}, got {missing}")
