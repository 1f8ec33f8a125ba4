# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders on the Hub: written, checked before they are pushed, pushed."""

from .findings import Shareable
from .preflight import check_shareable
from .push import CHECKPOINT, Pushed, push_checkpoint, save_checkpoint


__all__ = ["CHECKPOINT", "Pushed", "Shareable", "check_shareable", "push_checkpoint", "save_checkpoint"]
