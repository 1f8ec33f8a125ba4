# SPDX-License-Identifier: Apache-2.0
"""Select the files of a folder to share: its own files, of the types that a checkpoint has."""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from ..export.exported import MANIFEST
from ..io.folder_kinds import walk_files
from ..io.json import read_object
from ..models.errors import ArgumentError


BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# Leftovers of training, and hidden files; in lower case.
NOT_SHARED = ("checkpoint-*", "epoch_*", "runs/*", ".*", "*/.*", "__pycache__/*", "*/__pycache__/*")
# File types of a checkpoint. Any other file may be pickled, regardless of its name, and run code when loaded.
SUFFIXES = (
    *(".safetensors", ".onnx", ".model", ".json", ".py", ".md", ".txt", ".csv", ".yaml", ".yml", ".jinja"),
    *(".png", ".jpg", ".jpeg", ".svg"),
)
# torch.export programs and the weights of large ONNX files, shared only if the folder's manifest lists them.
EXPORTED_SUFFIXES = (".pt2", ".data")
ATTRIBUTES = ".gitattributes"
NAMES = re.compile(r"(licen[sc]e|copying|notice|authors)([-_][a-z0-9-]*(\.\d+)?)?")
# Known to be or contain pickles, so that a message can explain why they are missing.
PICKLED = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".cloudpickle", ".pck", ".pcl", ".p"),
    *(".npy", ".npz", ".tar", ".mar", ".h5", ".hdf5", ".keras"),
)
LINK = (
    "{} is a link that leads out of the folder, or nowhere, and its target may not be intended for sharing. Put the "
    "file itself here, or remove the link."
)


def behind_link(folder: Path, name: str) -> str | None:
    """Resolve a link to the name of its target in the folder.

    In the Hub's cache, snapshots consist of links to blobs: for these, the name of the link is returned.

    Args:
        folder (`Path`): the folder, which may be a link itself.
        name (`str`): name of the link in the folder.

    Returns:
        `str`, *optional*: the name; `None` if the link leads out of the folder, or nowhere.
    """
    root = folder.resolve()
    try:
        target = (root / name).resolve(strict=True)
    # Python before 3.13 raises RuntimeError for a loop.
    except (OSError, RuntimeError):
        return None
    if target.is_relative_to(root):
        return target.relative_to(root).as_posix()
    return name if target.parent in _blobs(root) and BLOB.fullmatch(target.name) else None


def _blobs(root: Path) -> list[Path]:
    """Return the blob folders of a snapshot in the Hub's cache: `models--ORG--NAME/blobs` for `snapshots/COMMIT`."""
    repos = [place.parent.parent for place in (root, *root.parents) if place.parent.name == "snapshots"]
    return [repo / "blobs" for repo in repos if repo.name.startswith("models--")]


def shared_files(directory: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Return the files of a folder to upload, and those to leave out.

    Left out are leftovers of training, hidden files, types that a checkpoint does not have (which may be pickled), and
    links to any of these, to folders, or out of the folder.

    Args:
        directory (`str` or `os.PathLike`): the folder.
    """
    folder = Path(directory)
    names = sorted(name for name in walk_files(folder) if (folder / name).is_symlink() or (folder / name).is_file())
    exported = _exported_files(folder)
    shared = []
    for name in names:
        path = folder / name
        target = behind_link(folder, name) if path.is_symlink() else name
        if path.is_file() and target is not None and _is_shared(name, exported) and _is_shared(target, exported):
            shared.append(name)
    return shared, sorted(set(names) - set(shared))


def leading_out(directory: str | os.PathLike) -> list[str]:
    """Return links out of a folder, or to nowhere, whose names would be shared.

    Links from the Hub's cache to its own blobs do not count.

    Args:
        directory (`str` or `os.PathLike`): the folder.
    """
    folder = Path(directory)
    links = [name for name in walk_files(folder) if (folder / name).is_symlink() and behind_link(folder, name) is None]
    exported = _exported_files(folder)
    return [name for name in sorted(links) if _is_shared(name, exported) or _is_linked_folder(folder, name)]


def refuse_links(directory: str | os.PathLike, argument: str = "directory") -> None:
    """Reject a folder with links that lead out of it.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        argument (`str`, *optional*): name of the caller's argument.

    Raises:
        ValueError: it has one.
    """
    links = leading_out(directory)
    if links:
        raise ArgumentError(
            argument, f"must not have links that lead out of it, got {str(directory)!r}: {LINK.format(links[0])}"
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
    """Return the files listed in the manifest of an exported folder."""
    try:
        named = read_object(folder / MANIFEST).get("sha256")
        return set(named) if isinstance(named, dict) else set()
    # Reported where the whole manifest is read.
    except (OSError, ValueError):
        return set()
