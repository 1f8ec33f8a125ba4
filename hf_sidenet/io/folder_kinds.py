# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder this package wrote, and which are somebody else's.

Every folder that it writes has a JSON document, which lists under `"files"` what was written, with hashes. Folders of
earlier versions have no list: there the names decide.
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
# Of tokenizers and image processors.
PROCESSOR_NAMES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)


@dataclass(frozen=True)
class FolderKind:
    """What one kind of folder is known by.

    Args:
        document (`str`): the JSON file that every one has, which lists the files.
        marks (`tuple[str, ...]`): keys by which the document of an earlier version is known.
        names (`tuple[str, ...]`): patterns of what is written, or would be taken for it by whoever loads the folder.
        card (`str`, *optional*): a file that is written for people to write in.
    """

    document: str
    marks: tuple[str, ...]
    names: tuple[str, ...] = ()
    card: str | None = None

    def reserves(self, name: str) -> bool:
        """Whether somebody else's file must not have this name."""
        return name == self.document or matches(name, self.names)


@dataclass
class Sorted:
    """The entries of a folder that is to be written anew.

    Args:
        ours (`list[str]`): written by this package, and as they were then; or with their content in the new folder.
        others (`list[str]`): all else, which stays.
        refused (`list[str]`): all else that is in the way of the new folder.
    """

    ours: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def sort_entries(folder: Path, kind: FolderKind, *, read: Sequence[str] = (), new: Path | None = None) -> Sorted:
    """Tell apart what this package wrote and what it did not.

    Args:
        folder (`Path`): that is there.
        kind ([`FolderKind`]): of what is to be written.
        read (`Sequence[str]`, *optional*):
            The folder is one of this kind that was read, and what is in files of these names goes into the new one,
            with whatever was changed in them.
        new (`Path`, *optional*): the new folder, once it is there.
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
        # Somebody may have let the new card take the old one's place.
        return _digest(folder, name, kind) in listed.values()
    return name in listed and _digest(folder, name, kind) == listed[name]


def list_files(folder: Path, kind: FolderKind, foreign: Collection[str] = ()) -> None:
    """Write the list into a new folder.

    Args:
        folder (`Path`): it has its document, and nothing that this package did not write but `foreign`.
        kind ([`FolderKind`]): its own.
        foreign (`Collection[str]`, *optional*): names in it of files that are somebody else's.
    """
    document = _read(folder / kind.document)
    if document is None:
        raise ArgumentError("folder", f"must have its {kind.document}, a JSON object", str(folder))
    document[FILES] = {name: _digest(folder, name, kind) for name in sorted(walk_files(folder)) if name not in foreign}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # A file system that finds a file cut and written again waits for the disk.
    (folder / kind.document).unlink()
    (folder / kind.document).write_text(text + "\n", encoding="utf-8")


def listed_files(folder: Path, kind: FolderKind) -> dict[str, str] | None:
    """What a folder says was written, with hashes; `None` where it does not say."""
    listed = (_read(folder / kind.document) or {}).get(FILES)
    return listed if isinstance(listed, dict) else None


def walk_files(folder: Path) -> Iterator[str]:
    """Everything in a folder that is no folder with something in it, by its path in there. Links are not followed."""
    for place, folders, names in os.walk(folder, onerror=_raise):
        where = Path(place)
        links = [name for name in folders if (where / name).is_symlink()]
        if where != folder and not folders and not names:
            yield where.relative_to(folder).as_posix()
        for name in [*links, *names]:
            yield (where / name).relative_to(folder).as_posix()


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a path fits one of several patterns, part by part."""
    parts = name.split("/")
    return any(
        len(parts) == len(pattern.split("/")) and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def _is_in_the_way(new: Path, folder: Path, name: str) -> bool:
    """Whether an entry cannot be in the new folder beside what is there. As the file system says: it may not tell
    capitals."""
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
    """Of a file; of the document without its list; `None` of what is no file, or cannot be read."""
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
    """A JSON object; `None` where there is none, or something else."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return None


def _raise(error: OSError) -> None:
    raise error
