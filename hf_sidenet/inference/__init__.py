# SPDX-License-Identifier: Apache-2.0
"""Running a MainNet with SideNets fast: stages, the runner that fills its batches, and exports."""

from .engine import RowError
from .rows import Prediction
from .runner import SideNetRunner
from .stages import Stages


__all__ = ["Prediction", "RowError", "SideNetRunner", "Stages"]
