# SPDX-License-Identifier: Apache-2.0
"""Writing result files: a reader sees the old file or the new one, never half of it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`, which becomes `path` if the block ends without an error.

    Args:
        path (`str` or `os.PathLike`): the file to write; its folder must exist.
    """
    path = Path(path)
    # The same folder, since a rename across file systems is a copy.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
