# SPDX-License-Identifier: Apache-2.0
"""What a folder says: its card, and words that must not travel."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..report import Report
from .findings import Shareable


CARD, REPORT = "README.md", "report.json"
# They hold numbers, in which anything may stand by chance.
BINARY = (".safetensors", ".onnx", ".data", ".pt2", ".png", ".jpg", ".jpeg", ".model")
BLOCK = 1 << 20
VOCABULARIES = ("tokenizer.json", "vocab.json")
TEMPLATE = "[More Information Needed]"
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
# The shortest that it finds, and what stands before it.
TOKEN_LENGTH = 34
ABSOLUTE = re.compile(r"(/|~|file:|[A-Za-z]:[\\/]|\\\\)")


def check_card(folder: Path, found: Shareable) -> None:
    """The model card, as the Hub reads it."""
    if CARD not in found.files:
        found.warnings.append(f"there is no model card, {CARD}: nobody will know what this is and what θ promises.")
        return
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        card = ModelCard(text, ignore_metadata_errors=False)
        results = card.data.eval_results
    # The reader of cards raises whatever its YAML parser does.
    except Exception as error:
        found.errors.append(f"{CARD} has metadata that the Hub refuses: {' '.join(str(error).split())}")
        return
    if TEMPLATE in text:
        found.warnings.append(f"{CARD} is a template that nobody filled in: it says {TEMPLATE!r}.")
    if not results:
        found.warnings.append(f"{CARD} has no `model-index`: the Hub shows no results.")
    if card.data.license is None:
        found.notes.append(f"{CARD} names no license, so that others may not use it.")
    for picture in re.findall(r"!\[[^\]]*\]\(((?!https?:)[^)\s]+)\)", text):
        if picture.removeprefix("./") not in found.files:
            found.warnings.append(f"{CARD} shows {picture}, which is not uploaded.")


def check_report(folder: Path, found: Shareable) -> None:
    """`report.json` is read by commands, so that a damaged one is worse than none."""
    if REPORT in found.files:
        try:
            Report.read(folder / REPORT)
        except ValueError as error:
            found.errors.append(str(error))


def check_secrets(folder: Path, found: Shareable) -> None:
    """No token, and no path of this machine."""
    home, parent = Path.home(), folder.resolve().parent
    places = {f"{place}/".encode() for place in (home, parent) if len(place.parts) > (1 if place == home else 2)}
    for name in found.files:
        if name.lower().endswith(BINARY):
            continue
        has_token, has_place = _scan(folder / name, places)
        if has_token:
            found.errors.append(
                f"{name} holds what looks like a token of the Hub (hf_...). Take it out, and revoke it."
            )
        told = False
        if name.lower().endswith(".json") and Path(name).name not in VOCABULARIES:
            for key, value in _paths(read_json(folder / name)):
                told = True
                found.errors.append(
                    f"{name}: `{key}` is {value!r}, a path of this machine, which nobody else has. Take the key out."
                )
        if has_place and not told:
            found.warnings.append(f"{name} tells a path of this machine. Look at it before you share it.")


def _scan(path: Path, places: set[bytes]) -> tuple[bool, bool]:
    """Whether a file holds a token, and whether one of the places; in blocks, since it may be large."""
    overlap = max(map(len, places), default=0) + TOKEN_LENGTH
    has_token = has_place = False
    # Every search begins behind one byte: there is always one to tell whether a word begins.
    window = b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            window = window[-overlap:] + block
            has_token = has_token or TOKEN.search(window, 1) is not None
            has_place = has_place or any(place in window for place in places)
    return has_token, has_place


def read_json(path: Path) -> Any:
    """What a file holds; `None` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _paths(document: Any) -> Iterator[tuple[str, str]]:
    """Places that name where something came from on this machine, by the name of their key."""
    waiting = [("", document)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(key, item) for item in reversed(value)]
        # Classes may be called "/m/04rlf": under other keys only what exists counts.
        elif (
            isinstance(value, str)
            and ABSOLUTE.match(value)
            and (key.rpartition(".")[2].removeprefix("_") == "name_or_path" or _exists(value))
        ):
            yield key, value


def _exists(value: str) -> bool:
    at_home = value.startswith("~")
    try:
        # "/", "/m" and "~" are more likely names than places, whatever exists.
        return len(Path(value).parts) > (1 if at_home else 2) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
