# SPDX-License-Identifier: Apache-2.0
"""How much all visitors' files may take together: the page bounds each file, and nothing else does their sum."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


MAX_TOTAL_BYTES = 2**30
TOO_MUCH = b"The page holds as many files as it may. Try again later: they are deleted within the hour."


class UploadLimit:
    """ASGI middleware that refuses files while those in a folder, and those on their way into it, take too much.

    Args:
        app (ASGI application): what is behind it.
        folder (`Path`): where it puts files.
        most (`int`): bytes of all of them.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: Path, most: int):
        self.app, self.folder, self.most = app, folder, most
        self.coming = 0

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        kept, mine = _bytes_in(self.folder), 0
        refused = answered = False

        async def counted() -> dict[str, Any]:
            nonlocal mine, refused
            message = await receive()
            size = len(message.get("body", b""))
            mine, self.coming = mine + size, self.coming + size
            if kept + self.coming > self.most:
                refused = True
                # The application stops reading, and deletes what it has.
                return {"type": "http.disconnect"}
            return message

        async def told(message: dict[str, Any]) -> None:
            nonlocal answered
            if not refused:
                answered = True
                await send(message)

        try:
            await self.app(scope, counted, told)
        except Exception:
            if not refused:
                raise
        finally:
            self.coming -= mine
        if refused and not answered:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 507, "headers": headers})
            await send({"type": "http.response.body", "body": TOO_MUCH})


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        # Deleted meanwhile.
        except OSError:
            continue
    return total
