# SPDX-License-Identifier: Apache-2.0
"""Write files atomically."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which replaces `path` if the block ends without an error.

    Args:
        path (`str` or `os.PathLike`): the file to write; its folder must exist.
        private (`bool`, *optional*, defaults to `False`):
            Make the file readable by its owner only, regardless of the permissions of the file it replaces.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        if private:
            temporary.touch(0o600, exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return an unused hidden path next to `path`."""
    # In the same folder, because a rename across file systems is a copy.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
