# SPDX-License-Identifier: Apache-2.0
"""Writing result files and folders: a reader never sees half of one."""

import os
import re
import secrets
import shutil
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
    temporary = _temporary(path)
    try:
        if private:
            temporary.touch(0o600, exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`, which becomes `path` if the block ends without an error.

    What a killed call left behind is removed by the next one that succeeds.

    Args:
        path (`str` or `os.PathLike`): the folder to write; folders above it are made.
        overwrite (`bool`, *optional*, defaults to `False`): put it in the place of a folder that is there.

    Raises:
        ValueError: `path` is a file, or a folder that holds something and `overwrite` is False.
    """
    path = Path(path).resolve()
    check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary(path), _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # Only now: until the new folder stood there, a leftover might have been all that there was.
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for leftover in path.parent.iterdir():
        if ours.fullmatch(leftover.name) and leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)


def check_free(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Refuse a folder that cannot be written, before the work that fills it.

    Raises:
        ValueError: `path` is a file, or a folder that holds something and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"`output_dir` must be a folder, got the file {str(path)!r}.")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"`output_dir` must be new or empty unless `overwrite` is given, got {str(path)!r}.")


def _temporary(path: Path) -> Path:
    # The same folder, since a rename across file systems is a copy.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
