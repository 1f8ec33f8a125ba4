# SPDX-License-Identifier: Apache-2.0
"""Write a whole folder atomically, keeping files that this package did not write.

The new folder is written as `NEW` in a hidden folder next to the old one, which its writer signs (`WRITER`). Files of
others are hard-linked into it, without copying. Then both folders are swapped in one step, and the rest of the old one
is removed. If the writer is killed at any point, `path` is intact, and the next writer of the same folder completes or
removes the leftovers.
"""

import ctypes
import errno
import json
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..models.errors import ArgumentError
from .files import temporary_name
from .folder_kinds import FolderKind, Sorted, list_files, sort_entries, walk_files
from .locks import folder_lock, is_abandoned, sign


# From linux/fs.h and sys/stdio.h: RENAME_EXCHANGE, RENAME_SWAP.
CALLS = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}
EXCHANGE = 2
MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)

logger = logging.getLogger(__name__)
# In the hidden folder: the new folder, later the old one; the old one, if they cannot be swapped in one step; the
# writer; and, before anything moves, what may be removed.
NEW, OLD, WRITER, PLAN = "new", "old", "writer", "plan.json"


def exchange(one: Path, other: Path) -> bool:
    """Swap two entries of one file system, so that both names exist at all times.

    Returns:
        `bool`: `False` if the system or the file system cannot swap; then nothing has changed.

    Raises:
        OSError: an entry does not exist or cannot be moved.
    """
    name, here = CALLS.get(sys.platform, ("", 0))
    # Missing in an older C library, and on Windows.
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if call is None:
        return False
    if call(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in MISSING:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@contextmanager
def writing_folder(
    path: str | os.PathLike,
    kind: FolderKind,
    *,
    overwrite: bool = False,
    read: Sequence[str] = (),
    foreign: Collection[str] = (),
) -> Iterator[Path]:
    """Yield an empty temporary folder, which becomes `path` if the block ends without an error.

    With `overwrite`, it replaces the files that this package wrote at `path`. Other files are kept: a `.git`, a
    license, notes, and an edited card; the new card then gets another name (`README.new.md`). If a conflict arises in
    the meantime, the new folder is kept under another name, which the error reports.

    The next successful call removes leftovers of killed ones.

    Args:
        path (`str` or `os.PathLike`): the folder to write; parent folders are created.
        kind ([`FolderKind`]): kind of the folder.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder.
        read (`Sequence[str]`, *optional*): see [`check_free`].
        foreign (`Collection[str]`, *optional*): names of files in it that this package copied rather than wrote.

    Raises:
        ValueError: see [`check_free`].
    """
    path = Path(path).resolve()
    check_free(path, kind, overwrite=overwrite, read=read)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(path) as workplace:
        new = workplace / NEW
        new.mkdir()
        yield new
        list_files(new, kind, foreign)
        with folder_lock(path.parent):
            identity = new.stat().st_ino
            try:
                _put_in_place(workplace, path, kind, overwrite, read, foreign)
            except (ValueError, OSError) as error:
                if not new.exists() or new.stat().st_ino != identity:
                    raise
                raise ValueError(f"{error} The new folder was saved as {str(_set_aside(new, path))!r}.") from error
            _settle(workplace, path)
            # Only now: until the new folder is in place, a leftover may still be needed.
            _sweep(path)


def check_free(
    path: str | os.PathLike, kind: FolderKind, *, overwrite: bool = False, read: Sequence[str] = ()
) -> None:
    """Reject a folder that cannot be written, before doing the work that fills it.

    Args:
        path (`str` or `os.PathLike`): the folder.
        kind ([`FolderKind`]): kind of the folder.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder.
        read (`Sequence[str]`, *optional*):
            If the folder is the one that was read: patterns of files whose contents go into the new one, so that
            changes to them are allowed.

    Raises:
        ValueError: `path` is a file or a mount point, it is not empty and `overwrite` is `False`, or it has a file of
            a reserved name that this package did not write, or that has changed since.
    """
    path = Path(path).resolve()
    _put_back(path)
    if _check_place(path, overwrite):
        _refuse(path, sort_entries(path, kind, read=read).refused)


def _check_place(path: Path, overwrite: bool) -> bool:
    """Reject a path that cannot be written as a folder.

    Returns:
        `bool`: whether it is a nonempty folder.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError("output_dir", f"must be a folder, got the file {str(path)!r}")
    if os.path.ismount(path):
        raise ArgumentError(
            "output_dir",
            f"must be a folder that can be replaced, got the mount point {str(path)!r}. Use a folder in it",
        )
    if not path.is_dir() or not any(path.iterdir()):
        return False
    if not overwrite:
        raise ArgumentError("output_dir", "must be new or empty unless `overwrite` is given", str(path))
    return True


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        several = f" (the first of {len(names)} files)" if len(names) > 1 else ""
        raise ArgumentError(
            "output_dir",
            "must not have other files of the names to be written, got "
            f"{str(path)!r}, where {names[0]} was not written by this package or has changed since{several}. "
            "Move it away, or use another folder",
        )


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `path`, signed by its writer while in use."""
    writer = None
    while writer is None:
        workplace = temporary_name(path)
        workplace.mkdir()
        # Until it is signed, another process may remove the empty folder as a leftover.
        with suppress(FileNotFoundError):
            writer = sign(workplace / WRITER)
    try:
        yield workplace
    finally:
        try:
            _settle(workplace, path)
        finally:
            # Windows cannot remove an open file.
            writer.close()
        _leave(workplace)


def _put_in_place(
    workplace: Path,
    path: Path,
    kind: FolderKind,
    overwrite: bool,
    read: Sequence[str],
    foreign: Collection[str],
) -> None:
    new = workplace / NEW
    is_filled = _check_place(path, overwrite)
    if path.exists():
        shutil.copymode(path, new)
    if not is_filled:
        if os.name == "nt" and path.exists():
            path.rmdir()
        # Atomic, and fails if something has been put there in the meantime.
        os.rename(new, path)
        return
    found = sort_entries(path, kind, read=read, new=new)
    if kind.card is not None and kind.card in found.refused:
        _keep_card(path, new, kind.card, found)
        list_files(new, kind, foreign)
    _refuse(path, found.refused)
    _link(path, new, found.others)
    plan = {"new": new.stat().st_ino, "ours": {name: _state(path / name) for name in found.ours}}
    (workplace / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    if not exchange(new, path):
        os.rename(path, workplace / OLD)
        os.rename(new, path)


def _keep_card(path: Path, new: Path, card: str, found: Sorted) -> None:
    """Keep an edited card, and give the new one another name."""
    stem, suffix = os.path.splitext(card)
    name = f"{stem}.new{suffix}"
    if name in found.others:
        found.others.remove(name)
        found.refused.append(name)
    found.refused.remove(card)
    found.others.append(card)
    os.rename(new / card, new / name)
    logger.warning(
        "%s in %s was edited: keeping it, although it may describe an earlier θ. The new one is %s.",
        card, path, name,
    )  # fmt: skip


def _link(path: Path, new: Path, names: Sequence[str]) -> None:
    """Hard-link entries into the new folder. Those that cannot be linked are moved after the swap."""
    for name in names:
        source, target = path / name, new / name
        try:
            if source.is_dir() and not source.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):
            continue
    # Deepest first, because a folder may be read-only.
    for place, _, _ in os.walk(new, topdown=False):
        source = path / Path(place).relative_to(new)
        if source.is_dir() and not source.is_symlink():
            shutil.copystat(source, place)


def _settle(workplace: Path, path: Path) -> None:
    """Complete or undo the work of a writer, wherever it stopped, and remove the rest."""
    new, old = workplace / NEW, workplace / OLD
    _put_back_old(old, path)
    plan = _plan(workplace)
    if not old.exists() and plan is not None and new.exists() and new.stat().st_ino != plan["new"]:
        old = new
    if plan is not None and old.exists() and not _empty(old, path, plan["ours"]):
        kept = _set_aside(old, path)
        logger.warning("%s was changed while it was being replaced. What is missing from it is in %s.", path, kept)
    if new.exists():
        _open_up(new)
        shutil.rmtree(new)
    (workplace / PLAN).unlink(missing_ok=True)


def _leave(workplace: Path) -> None:
    (workplace / WRITER).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        workplace.rmdir()


def _open_up(folder: Path) -> None:
    """Allow the owner to remove the contents."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)


def _empty(old: Path, path: Path, ours: dict[str, Any]) -> bool:
    """Empty an old folder: remove this package's files and hard-linked ones, move the rest to the new folder.

    Returns:
        `bool`: whether nothing is left.
    """
    _open_up(old)
    for name in [*walk_files(old)]:
        source, target = old / name, path / name
        if _state(source) == ours.get(name) or _is_same(source, target):
            (os.rmdir if source.is_dir() and not source.is_symlink() else os.unlink)(source)
        elif not os.path.lexists(target):
            with suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
    for place, _, _ in os.walk(old, topdown=False):
        with suppress(OSError):
            os.rmdir(place)
    return not old.exists()


def _is_same(source: Path, target: Path) -> bool:
    if not os.path.lexists(target):
        return False
    if source.is_dir() and not source.is_symlink():
        return target.is_dir() and not target.is_symlink()
    return os.path.samestat(source.lstat(), target.lstat())


def _state(path: Path) -> list[int]:
    about = path.lstat()
    return [about.st_ino, about.st_size, about.st_mtime_ns]


def _plan(workplace: Path) -> dict[str, Any] | None:
    """Read the plan; return `None` if nothing has been moved yet."""
    try:
        return json.loads((workplace / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _put_back(path: Path) -> None:
    """Restore the old folder if a writer was killed between two renames."""
    if not path.exists():
        for workplace in _abandoned(path):
            _put_back_old(workplace / OLD, path)


def _put_back_old(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.rename(old, path)


def _sweep(path: Path) -> None:
    for workplace in _workplaces(path):
        # Succeeds only if it is empty.
        with suppress(OSError):
            workplace.rmdir()
    for workplace in _abandoned(path):
        _settle(workplace, path)
        _leave(workplace)


def _abandoned(path: Path) -> list[Path]:
    """List the hidden folders of dead writers."""
    return [workplace for workplace in _workplaces(path) if is_abandoned(workplace / WRITER)]


def _workplaces(path: Path) -> list[Path]:
    """List the hidden folders of all writers of the same folder, except those of other users in a shared place."""
    if not path.parent.is_dir():
        return []
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    return [
        place
        for place in path.parent.iterdir()
        if name.fullmatch(place.name)
        and not place.is_symlink()
        and (os.name == "nt" or place.lstat().st_uid == os.getuid())
    ]


def _set_aside(folder: Path, path: Path) -> Path:
    """Rename a folder to an unused name next to `path`."""
    kept = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    os.rename(folder, kept)
    return kept
