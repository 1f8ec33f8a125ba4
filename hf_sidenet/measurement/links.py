# SPDX-License-Identifier: Apache-2.0
"""Links in a folder: what is behind one that leads out of it is not the folder's, and nobody meant to share it."""

import re
from pathlib import Path


BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


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
