# SPDX-License-Identifier: Apache-2.0
"""Locks that end with the process that holds them, and whether a process that left something behind is dead.

The system frees such a lock when its holder ends, however it ends. Some file systems of networks have none.
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
    """Write down who works here, in a new file that stays locked as long as it is open."""
    file = path.open("x+b")
    # Somebody may be looking whether it is free.
    _lock(file, wait=True)
    file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
    file.flush()
    return file


def is_abandoned(path: Path) -> bool:
    """Whether the process that has signed a file is dead: its lock is free, and this machine has no such process.

    What another machine left stays, since not every file system shows its locks to all; so does what nobody signed.
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
    # In a container a process often has the number of the one before it. Our own lock would not have been free.
    return (is_free and pid == os.getpid()) or not _runs(pid)


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder itself, which leaves no file.

    Args:
        folder (`Path`): it must exist.
        shared (`bool`, *optional*, defaults to `False`): others may share it at the same time.
        wait (`bool`, *optional*, defaults to `True`): until it is free.

    Returns:
        `bool`: whether it is held: not where it is taken and `wait` is False, nor where the file system has no such
        locks.
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
    """True: it is ours now; False: somebody has it; `None`: there are no locks here."""
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
        # There the call below would end it; the lock alone tells.
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
