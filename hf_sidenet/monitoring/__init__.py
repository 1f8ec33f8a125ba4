# SPDX-License-Identifier: Apache-2.0
"""Monitor in production whether the guarantee still holds."""

from .anytime import ChangeDetector, anytime_interval, log_wealth
from .shadow import MonitorReport, ShadowMonitor, Ticket, check_comparable
from .watched import WatchedRunner


__all__ = [
    "ChangeDetector",
    "MonitorReport",
    "ShadowMonitor",
    "Ticket",
    "WatchedRunner",
    "anytime_interval",
    "check_comparable",
    "log_wealth",
]
