# SPDX-License-Identifier: Apache-2.0
"""Run a MainNet with SideNets fast: stages, and the runner that fills their batches."""

from .collect import collect_stages
from .engine import RowError
from .rows import Prediction
from .runner import SideNetRunner
from .single_stage import SingleStage
from .stages import Stages, StagesError


__all__ = [
    "Prediction",
    "RowError",
    "SideNetRunner",
    "SingleStage",
    "Stages",
    "StagesError",
    "collect_stages",
]
