# SPDX-License-Identifier: Apache-2.0
"""Writing result files: a reader never sees half of one."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike, *, private: bool = False) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`, which becomes `path` if the block ends without an error.

    Args:
        path (`str` or `os.PathLike`): the file to write; its folder must exist.
        private (`bool`, *optional*, defaults to `False`):
            Only its owner may read it, whatever the file in its place allowed. For texts of other people.
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
    """A hidden name beside `path`, which nobody has."""
    # The same folder, since a rename across file systems is a copy.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
