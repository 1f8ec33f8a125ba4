# SPDX-License-Identifier: Apache-2.0
"""Locks that are released when their process ends, and a check for dead processes.

The system releases such a lock however its holder ends. Some network file systems do not support them.
"""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


def sign(path: Path) -> IO[bytes]:
    """Write the identity of this process to a new file, which is locked while it is open."""
    file = path.open("x+b")
    # Waits, because another process may be checking whether it is free.
    _lock(file, wait=True)
    file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
    file.flush()
    return file


def is_abandoned(path: Path) -> bool:
    """Return whether the process that signed a file is dead: the lock is free, and this machine has no such process.

    `False` for files signed on another machine, because not every file system shares locks, and for unsigned files.
    """
    try:
        with path.open("r+b") as file:
            is_free = _lock(file)
            if is_free is not False:
                # Windows locks the first byte for readers too.
                signed = json.loads(file.read())
                pid, host = int(signed["pid"]), signed["host"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if is_free is False or host != platform.node():
        return False
    # In a container, a process often gets its predecessor's id. This process's own lock would not be free.
    return (is_free and pid == os.getpid()) or not _runs(pid)


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Lock a folder itself, without a lock file.

    Args:
        folder (`Path`): the folder; must exist.
        shared (`bool`, *optional*, defaults to `False`): take a shared lock.
        wait (`bool`, *optional*, defaults to `True`): wait until the lock is free.

    Yields:
        `bool`: whether the lock is held: not if it is taken and `wait` is `False`, nor if the file system does not
        support locks.
    """
    if fcntl is None:
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _lock(file: IO[bytes], wait: bool = False) -> bool | None:
    """Lock a file; return `True` if locked, `False` if it is taken, `None` if locks are not supported."""
    try:
        if fcntl is None:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True


def _runs(pid: int) -> bool:
    if os.name == "nt":
        # On Windows, the call below would kill the process; rely on the lock alone.
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
