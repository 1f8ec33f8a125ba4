# SPDX-License-Identifier: Apache-2.0
"""Watching a model in production: does what was certified still hold?"""

from .anytime import ChangeDetector, anytime_interval, log_wealth
from .shadow import MonitorReport, ShadowMonitor, Ticket
from .watched import WatchedRunner


__all__ = [
    "ChangeDetector",
    "MonitorReport",
    "ShadowMonitor",
    "Ticket",
    "WatchedRunner",
    "anytime_interval",
    "log_wealth",
]
