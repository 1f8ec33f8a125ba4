# SPDX-License-Identifier: Apache-2.0
"""Writing a whole folder: a reader sees the old one or the new one, and what somebody else put there stays.

The new folder is written beside the old one, in a hidden folder that its writer has signed (`WRITER`) as `NEW`.
Other people's files get a second name in it (a hard link: no copy, however large). Then both change places in one step
and what is left of the old folder is removed. A writer may be killed at any point: `path` is whole, and the next
writer of the same folder completes or removes what was left.
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


# Of linux/fs.h and of sys/stdio.h: RENAME_EXCHANGE, RENAME_SWAP.
CALLS = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}
EXCHANGE = 2
MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)

logger = logging.getLogger(__name__)
# In the hidden folder: the new folder, which becomes the old one; where that stands meanwhile if places cannot be
# changed in one step; who writes; and, before anything moves, what may go.
NEW, OLD, WRITER, PLAN = "new", "old", "writer", "plan.json"


def exchange(one: Path, other: Path) -> bool:
    """Let two entries of one file system change places, so that either name is always there.

    Returns:
        `bool`: False where the system or the file system cannot. Then nothing has changed.

    Raises:
        OSError: one of them is not there, or cannot be moved.
    """
    name, here = CALLS.get(sys.platform, ("", 0))
    # Without one an older C library, or Windows, whose library has another name.
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
    """Give an empty temporary folder, which becomes `path` if the block ends without an error.

    With `overwrite` it takes the place of what this package wrote at `path`. What else is there stays: a `.git`, a
    license, notes, and a card in which somebody wrote; the new card then gets another name (`README.new.md`). If by
    the end something is in the way after all, what was written is kept under another name, which the error tells.

    What killed calls left behind is removed by the next one that succeeds.

    Args:
        path (`str` or `os.PathLike`): the folder to write; folders above it are made.
        kind ([`FolderKind`]): what is written.
        overwrite (`bool`, *optional*, defaults to `False`): the folder may hold something.
        read (`Sequence[str]`, *optional*): see [`check_free`].
        foreign (`Collection[str]`, *optional*): names of files in it that this package did not write, but copied.

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
                raise ValueError(f"{error} What was written is in {str(_set_aside(new, path))!r}.") from error
            _settle(workplace, path)
            # Only now: until the new folder stands there, a leftover may be of use.
            _sweep(path)


def check_free(
    path: str | os.PathLike, kind: FolderKind, *, overwrite: bool = False, read: Sequence[str] = ()
) -> None:
    """Refuse a folder that cannot be written, before the work that fills it.

    Args:
        path (`str` or `os.PathLike`): the folder.
        kind ([`FolderKind`]): what is to be written there.
        overwrite (`bool`, *optional*, defaults to `False`): it may hold something.
        read (`Sequence[str]`, *optional*):
            Where the folder is the one that was read: patterns of files whose content goes into the new one, so that
            they may have been changed.

    Raises:
        ValueError: `path` is a file, a place where a disk is mounted, or a folder that holds something and `overwrite`
            is False, or a file that this package would write but did not, or that was changed since.
    """
    path = Path(path).resolve()
    _put_back(path)
    if _check_place(path, overwrite):
        _refuse(path, sort_entries(path, kind, read=read).refused)


def _check_place(path: Path, overwrite: bool) -> bool:
    """Refuse what is not a folder to write.

    Returns:
        `bool`: whether something is in it.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError("output_dir", f"must be a folder, got the file {str(path)!r}")
    if os.path.ismount(path):
        raise ArgumentError(
            "output_dir",
            f"must be a folder that can be replaced, got {str(path)!r}, where a disk is mounted. Name a folder in it",
        )
    if not path.is_dir() or not any(path.iterdir()):
        return False
    if not overwrite:
        raise ArgumentError("output_dir", "must be new or empty unless `overwrite` is given", str(path))
    return True


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        several = f" ({len(names)} files, of which this is the first)" if len(names) > 1 else ""
        raise ArgumentError(
            "output_dir",
            "must hold nothing of a name that is written there but what this package wrote, "
            f"got {str(path)!r}, where {names[0]} is somebody else's or was changed since{several}. "
            "Move it away, or name another folder",
        )


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, which says who works in it as long as that lasts."""
    writer = None
    while writer is None:
        workplace = temporary_name(path)
        workplace.mkdir()
        # Until it is signed, others take an empty folder for a leftover.
        with suppress(FileNotFoundError):
            writer = sign(workplace / WRITER)
    try:
        yield workplace
    finally:
        try:
            _settle(workplace, path)
        finally:
            # On Windows what is open cannot be removed.
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
        # In one step, and refused by the system where somebody has put something there by now.
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
    """Somebody wrote in the old card: it stays, and the new one gets another name."""
    stem, suffix = os.path.splitext(card)
    name = f"{stem}.new{suffix}"
    if name in found.others:
        found.others.remove(name)
        found.refused.append(name)
    found.refused.remove(card)
    found.others.append(card)
    os.rename(new / card, new / name)
    logger.warning(
        "%s in %s is not as this package wrote it: it stays, and may speak of an earlier θ. The new one is %s.",
        card, path, name,
    )  # fmt: skip


def _link(path: Path, new: Path, names: Sequence[str]) -> None:
    """Give entries a second name in the new folder. What cannot have one is moved when the folders have changed
    places."""
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
    # The deepest first, since one may not be written to.
    for place, _, _ in os.walk(new, topdown=False):
        source = path / Path(place).relative_to(new)
        if source.is_dir() and not source.is_symlink():
            shutil.copystat(source, place)


def _settle(workplace: Path, path: Path) -> None:
    """Complete or undo what a writer began, wherever it stopped, and remove the rest."""
    new, old = workplace / NEW, workplace / OLD
    _put_back_old(old, path)
    plan = _plan(workplace)
    if not old.exists() and plan is not None and new.exists() and new.stat().st_ino != plan["new"]:
        old = new
    if plan is not None and old.exists() and not _empty(old, path, plan["ours"]):
        kept = _set_aside(old, path)
        logger.warning("%s was changed while it was replaced. What is not in it any more is in %s.", path, kept)
    if new.exists():
        _open_up(new)
        shutil.rmtree(new)
    (workplace / PLAN).unlink(missing_ok=True)


def _leave(workplace: Path) -> None:
    (workplace / WRITER).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        workplace.rmdir()


def _open_up(folder: Path) -> None:
    """Let its owner remove what is in it."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)


def _empty(old: Path, path: Path, ours: dict[str, Any]) -> bool:
    """Take an old folder apart: what was ours goes, what has a second name in the new folder too; the rest moves.

    Returns:
        `bool`: whether nothing is left of it.
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
    """What was to go; `None` where nothing had been moved yet."""
    try:
        return json.loads((workplace / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _put_back(path: Path) -> None:
    """Where a writer was killed between two renames: the old folder returns."""
    if not path.exists():
        for workplace in _abandoned(path):
            _put_back_old(workplace / OLD, path)


def _put_back_old(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.rename(old, path)


def _sweep(path: Path) -> None:
    for workplace in _workplaces(path):
        # Only of a folder in which nothing is.
        with suppress(OSError):
            workplace.rmdir()
    for workplace in _abandoned(path):
        _settle(workplace, path)
        _leave(workplace)


def _abandoned(path: Path) -> list[Path]:
    """Those of dead writers."""
    return [workplace for workplace in _workplaces(path) if is_abandoned(workplace / WRITER)]


def _workplaces(path: Path) -> list[Path]:
    """Hidden folders of all writers of the same folder; not those that another user made, in a place for all."""
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
    """Give a folder a name of its own, beside `path`."""
    kept = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    os.rename(folder, kept)
    return kept
