# SPDX-License-Identifier: Apache-2.0
"""The one process that counts disagreements with the MainNet, whatever the number of replicas."""

import json
from pathlib import Path
from typing import Any

from serve_settings import Settings

from hf_sidenet.measurement.files import replacing
from hf_sidenet.monitoring import ShadowMonitor
from hf_sidenet.optional import require


metrics = require("ray.serve.metrics", "ray")

# Rows after which the file is written again.
EVERY = 50


class Watcher:
    """What Ray Serve starts for the monitor.

    Args:
        settings ([`Settings`]): of the server.

    Raises:
        ValueError: no limit is given, and θ was not certified for one.
    """

    def __init__(self, settings: Settings):
        # The API has chosen; here every row counts.
        if settings.watch_limit is None:
            self.monitor = ShadowMonitor.from_config(settings.config, share=1.0)
        else:
            self.monitor = ShadowMonitor(settings.watch_limit, share=1.0)
        self.file = settings.watch_file
        self._since = 0
        self._alarm = metrics.Gauge("sidenet_watch_alarm", "1: what was certified no longer holds")
        self._seen = metrics.Gauge("sidenet_watch_rows", "rows that were looked at")
        self._low = metrics.Gauge("sidenet_watch_disagreement_low", "lower bound of the rate, at any time")
        self._high = metrics.Gauge("sidenet_watch_disagreement_high", "upper bound of the rate, at any time")
        self._tell()

    async def add(self, row: dict[str, str] | None, label: str, early: bool, disagrees: bool) -> None:
        """A row, the MainNet's class, and whether the answer that was given is another one."""
        self.monitor.chooses()
        was = self.monitor.alarm
        alarm = self.monitor.add(row, label, early=early, disagrees=disagrees)
        self._tell()
        self._since += 1
        if self.file is not None and (self._since >= EVERY or alarm != was):
            self._since = 0
            self._write()

    async def add_failed(self) -> None:
        """A row of which the MainNet gave no answer."""
        self.monitor.chooses()
        self.monitor.add_failed()

    async def report(self) -> dict[str, Any]:
        """What was seen; `num_rows` are those that were chosen."""
        return self.monitor.report().to_dict()

    def _tell(self) -> None:
        report = self.monitor.report()
        self._alarm.set(int(report.alarm))
        self._seen.set(report.num_chosen)
        self._low.set(report.interval[0])
        self._high.set(report.interval[1])

    def _write(self) -> None:
        lines = (f"{json.dumps(row)}\n" for row in self.monitor.rows())
        with replacing(Path(self.file)) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
