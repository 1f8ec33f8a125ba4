# SPDX-License-Identifier: Apache-2.0
"""Two folders change places in one step."""

import ctypes
import errno
import os
import sys
from pathlib import Path


# Of linux/fs.h and of sys/stdio.h: RENAME_EXCHANGE, RENAME_SWAP.
CALLS = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}
EXCHANGE = 2
MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


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
