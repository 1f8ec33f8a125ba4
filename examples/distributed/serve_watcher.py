# SPDX-License-Identifier: Apache-2.0
"""The one process that counts disagreements with the MainNet, whatever the number of replicas."""

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

# Gauges and the file follow so often.
EVERY_S = 2.0
# Longer texts count, and are not kept.
MAX_CHARS = 20_000


class Watcher:
    """What Ray Serve starts for the monitor.

    Args:
        settings ([`Settings`]): of the server.
    """

    def __init__(self, settings: Settings):
        # The API has chosen; here every row counts.
        self.monitor = settings.monitor()
        self.file = settings.watch_file
        if self.file is not None and Path(self.file).exists():
            # It has the texts of those who asked the last time.
            Path(self.file).chmod(0o600)
        # The caller's time, and as much for the MainNet's answer; then its process is gone.
        self._patience = 3 * settings.timeout_s
        self._tickets: dict[int, Ticket] = {}
        self._began: deque[tuple[float, int]] = deque()
        # Others than those of a process that died, whose rows are still under way.
        self._number = random.getrandbits(48)
        self._seen: tuple[int, int] | None = None
        self._alarm = metrics.Gauge("sidenet_watch_alarm", "1: what was certified no longer holds")
        self._rows = metrics.Gauge("sidenet_watch_rows", "rows that were looked at")
        self._failed = metrics.Gauge("sidenet_watch_failed_rows", "rows that could not be looked at")
        self._low = metrics.Gauge("sidenet_watch_disagreement_low", "lower bound of the rate, at any time")
        self._high = metrics.Gauge("sidenet_watch_disagreement_high", "upper bound of the rate, at any time")
        self._following: asyncio.Task | None = None

    async def choose(self, count: int) -> list[int]:
        """Numbers for so many chosen rows, before anybody knows who answers them."""
        # Not where it is made: there need not be a loop yet.
        self._following = self._following or asyncio.create_task(self._follow())
        numbers = []
        for _ in range(count):
            self._number += 1
            self._tickets[self._number] = self.monitor.choose()
            self._began.append((time.monotonic(), self._number))
            numbers.append(self._number)
        return numbers

    async def settle(self, number: int, row: dict[str, str] | None, label: str, early: bool, disagrees: bool) -> None:
        """A chosen row, the MainNet's class, and whether the answer that was given is another one."""
        if (ticket := self._tickets.pop(number, None)) is not None:
            kept = row if row is not None and sum(map(len, row.values())) <= MAX_CHARS else None
            self.monitor.settle(ticket, kept, label, early=early, disagrees=disagrees)

    async def drop(self, numbers: list[int]) -> None:
        """Chosen rows without an answer, or without the MainNet's."""
        for number in numbers:
            if (ticket := self._tickets.pop(number, None)) is not None:
                self.monitor.drop(ticket)

    async def report(self) -> dict[str, Any]:
        """What was seen; `num_rows` are those that were chosen."""
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
        """Rows whose process has died would hold up those after them."""
        lost = []
        while self._began and self._began[0][0] < time.monotonic() - self._patience:
            lost.append(self._began.popleft()[1])
        await self.drop(lost)

    def _write(self) -> None:
        # Without what was too long to be kept.
        lines = (f"{json.dumps(row)}\n" for row in self.monitor.rows() if row.get("text") is not None)
        with replacing(Path(self.file), private=True) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
