# SPDX-License-Identifier: Apache-2.0
"""Write checkpoint folders, check them, and push them to the Hub."""

from .findings import Shareable
from .preflight import check_shareable
from .push import CHECKPOINT, Pushed, push_checkpoint, save_checkpoint


__all__ = ["CHECKPOINT", "Pushed", "Shareable", "check_shareable", "push_checkpoint", "save_checkpoint"]
