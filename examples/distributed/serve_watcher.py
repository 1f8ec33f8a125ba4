# SPDX-License-Identifier: Apache-2.0
"""The single process that counts disagreements with the MainNet, whatever the number of replicas."""

import asyncio
import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

from serve_settings import Settings

from hf_sidenet.io.files import replacing
from hf_sidenet.monitoring import Ticket
from hf_sidenet.optional import require


metrics = require("ray.serve.metrics", "ray")

# Update interval of the gauges and the file.
EVERY_S = 2.0
# Longer texts count, but are not kept.
MAX_CHARS = 20_000


class Watcher:
    """The monitor, as Ray Serve starts it.

    Args:
        settings ([`Settings`]): of the server.
    """

    def __init__(self, settings: Settings):
        # The API has already chosen the rows; here every row counts.
        self.monitor = settings.monitor()
        self.file = settings.watch_file
        if self.file is not None and Path(self.file).exists():
            # It has the texts of earlier users.
            Path(self.file).chmod(0o600)
        # The caller's time, and the same again for the MainNet's answer; after that, its process is gone.
        self._patience = 3 * settings.timeout_s
        self._tickets: dict[int, Ticket] = {}
        self._began: deque[tuple[float, int]] = deque()
        # Distinct from those of a process that died, whose rows are still pending.
        self._number = random.getrandbits(48)
        self._seen: tuple[int, int] | None = None
        self._alarm = metrics.Gauge("sidenet_watch_alarm", "1: the certificate no longer holds")
        self._rows = metrics.Gauge("sidenet_watch_rows", "monitored rows")
        self._failed = metrics.Gauge("sidenet_watch_failed_rows", "rows that could not be monitored")
        self._low = metrics.Gauge("sidenet_watch_disagreement_low", "anytime-valid lower bound of the rate")
        self._high = metrics.Gauge("sidenet_watch_disagreement_high", "anytime-valid upper bound of the rate")
        self._following: asyncio.Task | None = None

    async def choose(self, count: int) -> list[int]:
        """Return numbers for this many chosen rows, before their exits are known."""
        # Not in the constructor: there may be no loop yet.
        self._following = self._following or asyncio.create_task(self._follow())
        numbers = []
        for _ in range(count):
            self._number += 1
            self._tickets[self._number] = self.monitor.choose()
            self._began.append((time.monotonic(), self._number))
            numbers.append(self._number)
        return numbers

    async def settle(self, number: int, row: dict[str, str] | None, label: str, early: bool, disagrees: bool) -> None:
        """Record a chosen row, the MainNet's class, and whether the given answer differs from it."""
        if (ticket := self._tickets.pop(number, None)) is not None:
            kept = row if row is not None and sum(map(len, row.values())) <= MAX_CHARS else None
            self.monitor.settle(ticket, kept, label, early=early, disagrees=disagrees)

    async def drop(self, numbers: list[int]) -> None:
        """Record chosen rows without an answer, or without the MainNet's."""
        for number in numbers:
            if (ticket := self._tickets.pop(number, None)) is not None:
                self.monitor.drop(ticket)

    async def report(self) -> dict[str, Any]:
        """Return the report; `num_rows` counts the chosen rows."""
        return self.monitor.report().to_dict()

    async def _follow(self) -> None:
        while True:
            await self._drop_lost()
            report = self.monitor.report()
            self._alarm.set(int(report.alarm))
            self._rows.set(report.num_chosen)
            self._failed.set(report.num_failed)
            self._low.set(report.interval[0])
            self._high.set(report.interval[1])
            seen = (report.num_chosen, report.num_failed)
            if self.file is not None and seen != self._seen:
                await asyncio.to_thread(self._write)
            self._seen = seen
            await asyncio.sleep(EVERY_S)

    async def _drop_lost(self) -> None:
        """Drop rows whose process has died, which would block those after them."""
        lost = []
        while self._began and self._began[0][0] < time.monotonic() - self._patience:
            lost.append(self._began.popleft()[1])
        await self.drop(lost)

    def _write(self) -> None:
        # Without texts too long to be kept.
        lines = (f"{json.dumps(row)}\n" for row in self.monitor.rows() if row.get("text") is not None)
        with replacing(Path(self.file), private=True) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
