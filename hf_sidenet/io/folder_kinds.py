# SPDX-License-Identifier: Apache-2.0
"""Distinguish files in a folder that this package wrote from other files.

Every folder it writes has a JSON document that lists the written files with hashes under `"files"`. Folders of earlier
versions have no list: there, names decide.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..models.errors import ArgumentError
from .files import sha256
from .json import read_object


FILES = "files"
# Files of tokenizers and image processors.
PROCESSOR_NAMES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)


@dataclass(frozen=True)
class FolderKind:
    """Kind of folder.

    Args:
        document (`str`): JSON file in every such folder, which lists the files.
        marks (`tuple[str, ...]`): keys that identify the document of an earlier version.
        names (`tuple[str, ...]`): patterns of files that are written, or would be mistaken for them when loading.
        card (`str`, *optional*): written file that people may edit.
    """

    document: str
    marks: tuple[str, ...]
    names: tuple[str, ...] = ()
    card: str | None = None

    def reserves(self, name: str) -> bool:
        """Return whether this name is reserved for files of this package."""
        return name == self.document or matches(name, self.names)


@dataclass
class Sorted:
    """Entries of a folder to be replaced.

    Args:
        ours (`list[str]`): written by this package and unchanged since, or with the same content in the new folder.
        others (`list[str]`): other entries, which are kept.
        refused (`list[str]`): other entries that conflict with the new folder.
    """

    ours: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def sort_entries(folder: Path, kind: FolderKind, *, read: Sequence[str] = (), new: Path | None = None) -> Sorted:
    """Separate entries that this package wrote from others.

    Args:
        folder (`Path`): the existing folder.
        kind ([`FolderKind`]): kind of the new folder.
        read (`Sequence[str]`, *optional*):
            Patterns of files that were read from this folder, of the same kind, and whose contents, including changes,
            go into the new one.
        new (`Path`, *optional*): the new folder, once it exists.
    """
    listed = listed_files(folder, kind)
    by_name = listed is None and (len(read) > 0 or _is_marked(folder, kind))
    found = Sorted()
    for name in walk_files(folder):
        reserved, is_new = kind.reserves(name), new is not None and _is_in_the_way(new, folder, name)
        known = reserved or is_new or name in (listed or ())
        if (
            (by_name and name != kind.card and known)
            or (known and matches(name, read))
            or (listed is not None and _is_as_written(folder, name, kind, listed))
            or (new is not None and is_new and _same_content(folder / name, new / name))
        ):
            found.ours.append(name)
        elif reserved or is_new:
            found.refused.append(name)
        else:
            found.others.append(name)
    return found


def _is_as_written(folder: Path, name: str, kind: FolderKind, listed: dict[str, str]) -> bool:
    if name == kind.card:
        # The user may have replaced the old card by the new one.
        return _digest(folder, name, kind) in listed.values()
    return name in listed and _digest(folder, name, kind) == listed[name]


def list_files(folder: Path, kind: FolderKind, foreign: Collection[str] = ()) -> None:
    """Write the list of files to the document of a new folder.

    Args:
        folder (`Path`): a folder with its document, containing only files of this package and `foreign`.
        kind ([`FolderKind`]): kind of the folder.
        foreign (`Collection[str]`, *optional*): names of files in it that are not this package's.
    """
    document = _read(folder / kind.document)
    if document is None:
        raise ArgumentError("folder", f"must have its {kind.document}, a JSON object", str(folder))
    document[FILES] = {name: _digest(folder, name, kind) for name in sorted(walk_files(folder)) if name not in foreign}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Some file systems wait for the disk when a file is truncated and rewritten.
    (folder / kind.document).unlink()
    (folder / kind.document).write_text(text + "\n", encoding="utf-8")


def listed_files(folder: Path, kind: FolderKind) -> dict[str, str] | None:
    """Return a folder's list of written files with hashes; `None` if it has none."""
    listed = (_read(folder / kind.document) or {}).get(FILES)
    return listed if isinstance(listed, dict) else None


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the relative paths of all files, links and empty folders in a folder. Links are not followed."""
    for place, folders, names in os.walk(folder, onerror=_raise):
        where = Path(place)
        links = [name for name in folders if (where / name).is_symlink()]
        if where != folder and not folders and not names:
            yield where.relative_to(folder).as_posix()
        for name in [*links, *names]:
            yield (where / name).relative_to(folder).as_posix()


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a path matches any of the patterns, part by part."""
    parts = name.split("/")
    return any(
        len(parts) == len(pattern.split("/")) and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def _is_in_the_way(new: Path, folder: Path, name: str) -> bool:
    """Return whether an entry conflicts with the new folder, according to a possibly case-insensitive file system."""
    place, is_folder = new, _is_real_folder(folder / name)
    *parents, last = name.split("/")
    for part in parents:
        place = place / part
        if os.path.lexists(place) and not _is_real_folder(place):
            return True
    return os.path.lexists(place / last) and not (is_folder and _is_real_folder(place / last))


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _digest(folder: Path, name: str, kind: FolderKind) -> str | None:
    """Hash a file, or the document without its list; return `None` if it is not a file or cannot be read."""
    try:
        if name != kind.document:
            return sha256(folder / name) if (folder / name).is_file() else None
        document = _read(folder / name)
        if document is None:
            return None
        document.pop(FILES, None)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    except OSError:
        return None


def _same_content(one: Path, other: Path) -> bool:
    try:
        return (
            one.is_file()
            and other.is_file()
            and one.stat().st_size == other.stat().st_size
            and sha256(one) == sha256(other)
        )
    except OSError:
        return False


def _is_marked(folder: Path, kind: FolderKind) -> bool:
    document = _read(folder / kind.document)
    return document is not None and len(kind.marks) > 0 and set(kind.marks) <= set(document)


def _read(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; return `None` if the file is missing or contains something else."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return None


def _raise(error: OSError) -> None:
    raise error
