# SPDX-License-Identifier: Apache-2.0
"""What a folder says: its card, and words that must not travel."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..cards import read_report_file
from .findings import Shareable


CARD, REPORT = "README.md", "report.json"
TEXTS = (".json", ".jsonl", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".py")
LARGEST = 50_000_000
VOCABULARIES = ("tokenizer.json", "vocab.json")
TEMPLATE = "[More Information Needed]"
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
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
            read_report_file(folder / REPORT)
        except ValueError as error:
            found.errors.append(str(error))


def check_secrets(folder: Path, found: Shareable) -> None:
    """No token, and no path of this machine."""
    home, parent = Path.home(), folder.resolve().parent
    places = {f"{place}/".encode() for place in (home, parent) if len(place.parts) > (1 if place == home else 2)}
    for name, size in found.files.items():
        if not name.endswith(TEXTS) or size > LARGEST:
            continue
        content = (folder / name).read_bytes()
        if TOKEN.search(content):
            found.errors.append(
                f"{name} holds what looks like a token of the Hub (hf_...). Take it out, and revoke it."
            )
        told = False
        if name.endswith(".json") and Path(name).name not in VOCABULARIES:
            for key, value in _paths(read_json(folder / name)):
                told = True
                found.errors.append(
                    f"{name}: `{key}` is {value!r}, a path of this machine, which nobody else has. Take the key out."
                )
        if not told and any(place in content for place in places):
            found.warnings.append(f"{name} tells a path of this machine. Look at it before you share it.")


def read_json(path: Path) -> Any:
    """What a file holds; `None` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _paths(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Places that name where something came from on this machine, by the name of their key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item, key)
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
