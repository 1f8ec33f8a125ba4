# SPDX-License-Identifier: Apache-2.0
"""The entrance for requests: none can block the others by being too large, too slow, or too many."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from serve_settings import Settings

from hf_sidenet.optional import require


metrics = require("ray.serve.metrics", "ray")

# Scope key with the deadline for the answer, on the clock of `time.monotonic()`.
DEADLINE = "sidenet.deadline"


class Door:
    """Limits requests: their bytes, their time, and how many arrive at once. Counts every answer.

    Args:
        app (`Callable`): an ASGI application.
        settings ([`Settings`]): of the server.
    """

    def __init__(self, app: Callable, settings: Settings):
        self.app, self.settings = app, settings
        self.num_bodies = 0
        self._requests = metrics.Counter("sidenet_requests", "requests by path and HTTP status", ("path", "status"))

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive)

        async def counted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                # Clients may request any path.
                path = scope["path"] if message["status"] not in (404, 405) else ""
                self._requests.inc(tags={"path": path, "status": str(message["status"])})
                if not body.is_complete:
                    # Do not wait for the rest.
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self.app({**scope, DEADLINE: body.deadline}, body.receive, counted)
        finally:
            body.leave()


class _Body:
    """The body of one request. A handler that never reads it, such as `/health`, does not wait.

    Args:
        door ([`Door`]): that it comes through.
        scope (`dict[str, Any]`): of the request.
        receive (`Callable`): returns its messages.
    """

    def __init__(self, door: Door, scope: dict[str, Any], receive: Callable):
        self.door, self._receive = door, receive
        self.deadline = time.monotonic() + door.settings.timeout_s
        headers = dict(scope["headers"])
        self._length = int(headers.get(b"content-length", 0))
        self._size = 0
        self._is_counted = False
        self.is_complete = self._length == 0 and b"transfer-encoding" not in headers

    async def receive(self) -> dict[str, Any]:
        """See ASGI.

        Raises:
            HTTPException: it is too large or too slow, or too many others are being read.
        """
        if self.is_complete:
            return await self._receive()
        self._check_size(self._length)
        self._enter()
        try:
            message = await asyncio.wait_for(self._receive(), self.deadline - time.monotonic())
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"a request must arrive within {self.door.settings.timeout_s} s.") from error
        self._size += len(message.get("body", b""))
        self._check_size(self._size)
        if not message.get("more_body", False):
            self.is_complete = True
            self.leave()
        return message

    def leave(self) -> None:
        """Release its slot: it has been read, or is no longer wanted."""
        self.door.num_bodies -= self._is_counted
        self._is_counted = False

    def _enter(self) -> None:
        if self._is_counted:
            return
        if self.door.num_bodies >= self.door.settings.max_bodies:
            raise HTTPException(503, "too many requests are being read.", {"Retry-After": "1"})
        self.door.num_bodies += 1
        self._is_counted = True

    def _check_size(self, size: int) -> None:
        if size > self.door.settings.max_bytes:
            raise HTTPException(413, f"a request must have at most {self.door.settings.max_bytes} bytes.")
