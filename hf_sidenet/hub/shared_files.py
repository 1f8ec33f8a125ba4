# SPDX-License-Identifier: Apache-2.0
"""What of a folder is shared: its own files, of the kinds that a checkpoint has."""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from ..export.exported import MANIFEST
from ..io.folder_kinds import leaves
from ..io.json import read_object
from ..models.errors import ArgumentError


BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# What training leaves beside a checkpoint, and what is hidden; in lower case.
NOT_SHARED = ("checkpoint-*", "epoch_*", "runs/*", ".*", "*/.*", "__pycache__/*", "*/__pycache__/*")
# What a checkpoint has. Anything else may be pickled, under whatever name, and loading that would run what is in it.
SUFFIXES = (
    *(".safetensors", ".onnx", ".model", ".json", ".py", ".md", ".txt", ".csv", ".yaml", ".yml", ".jinja"),
    *(".png", ".jpg", ".jpeg", ".svg"),
)
# Programs of torch.export, and the weights of a large ONNX file: of an exported folder, whose manifest names them.
EXPORTED_SUFFIXES = (".pt2", ".data")
ATTRIBUTES = ".gitattributes"
NAMES = re.compile(r"(licen[sc]e|copying|notice|authors)([-_][a-z0-9-]*(\.\d+)?)?")
# Known to be pickled, or to hold pickles: somebody will ask where they are.
PICKLED = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".cloudpickle", ".pck", ".pcl", ".p"),
    *(".npy", ".npz", ".tar", ".mar", ".h5", ".hdf5", ".keras"),
)
LINK = (
    "{} is a link that leads out of the folder, or nowhere: what is behind it was not put here to be shared. Put the "
    "file itself here, or take the link away."
)


def behind_link(folder: Path, name: str) -> str | None:
    """The name, in the folder, of what a link leads to in the end.

    Links of the Hub's cache lead from a snapshot to its own blobs, which stand for the file: of these it is the name
    of the link.

    Args:
        folder (`Path`): the folder, which may be a link itself.
        name (`str`): of the link, in the folder.

    Returns:
        `str`, *optional*: `None` where it leads out of the folder, or nowhere.
    """
    root = folder.resolve()
    try:
        target = (root / name).resolve(strict=True)
    # A loop, in Python before 3.13.
    except (OSError, RuntimeError):
        return None
    if target.is_relative_to(root):
        return target.relative_to(root).as_posix()
    return name if target.parent in _blobs(root) and BLOB.fullmatch(target.name) else None


def _blobs(root: Path) -> list[Path]:
    """Where the Hub's cache keeps the files of a snapshot: `models--ORG--NAME/blobs`, beside `snapshots/COMMIT`."""
    repos = [place.parent.parent for place in (root, *root.parents) if place.parent.name == "snapshots"]
    return [repo / "blobs" for repo in repos if repo.name.startswith("models--")]


def shared_files(directory: str | os.PathLike) -> tuple[list[str], list[str]]:
    """The files of a folder that are uploaded, and those that stay: what training leaves, what is hidden, what no
    checkpoint has, since it may be pickled, and links to any of these, to folders, or out of the folder.

    Args:
        directory (`str` or `os.PathLike`): the folder.
    """
    folder = Path(directory)
    names = sorted(name for name in leaves(folder) if (folder / name).is_symlink() or (folder / name).is_file())
    exported = _exported_files(folder)
    shared = []
    for name in names:
        path = folder / name
        target = behind_link(folder, name) if path.is_symlink() else name
        if path.is_file() and target is not None and _is_shared(name, exported) and _is_shared(target, exported):
            shared.append(name)
    return shared, sorted(set(names) - set(shared))


def leading_out(directory: str | os.PathLike) -> list[str]:
    """Links of a folder that lead out of it, or nowhere, to what would be shared if it were a file here. Those of the
    Hub's cache to its own files are none.

    Args:
        directory (`str` or `os.PathLike`): the folder.
    """
    folder = Path(directory)
    links = [name for name in leaves(folder) if (folder / name).is_symlink() and behind_link(folder, name) is None]
    exported = _exported_files(folder)
    return [name for name in sorted(links) if _is_shared(name, exported) or _is_linked_folder(folder, name)]


def refuse_links(directory: str | os.PathLike, argument: str = "directory") -> None:
    """Refuse a folder with links that lead out of it.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        argument (`str`, *optional*): what the caller calls it.

    Raises:
        ValueError: it has one.
    """
    links = leading_out(directory)
    if links:
        raise ArgumentError(
            argument, f"must hold no link that leads out of it, got {str(directory)!r}: {LINK.format(links[0])}"
        )


def _is_linked_folder(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() and not _is_kept_back(name.lower())


def _is_kept_back(lower: str) -> bool:
    return lower != ATTRIBUTES and any(fnmatchcase(lower, pattern) for pattern in NOT_SHARED)


def _is_shared(name: str, exported: set[str]) -> bool:
    lower = name.lower()
    if _is_kept_back(lower):
        return False
    last, suffix = lower.rpartition("/")[2], os.path.splitext(lower)[1]
    if suffix in EXPORTED_SUFFIXES:
        return name in exported
    return suffix in SUFFIXES or last == ATTRIBUTES or NAMES.fullmatch(last) is not None


def _exported_files(folder: Path) -> set[str]:
    """What the manifest of an exported folder names."""
    try:
        named = read_object(folder / MANIFEST).get("sha256")
        return set(named) if isinstance(named, dict) else set()
    # What is wrong with it is said by those who read all of it.
    except (OSError, ValueError):
        return set()
