# SPDX-License-Identifier: Apache-2.0
"""Running a MainNet with SideNets fast: stages, the runner that fills its batches, and exports."""

from .collect import collect_stages
from .engine import RowError
from .export import ExportError, export_stage
from .exported import Exported
from .onnx import OnnxStages
from .onnx_export import export_onnx
from .rows import Prediction
from .runner import SideNetRunner
from .single_stage import SingleStage
from .stages import Stages, StagesError
from .torch_export import TorchStages, export_torch


__all__ = [
    "ExportError",
    "Exported",
    "OnnxStages",
    "Prediction",
    "RowError",
    "SideNetRunner",
    "SingleStage",
    "Stages",
    "StagesError",
    "TorchStages",
    "collect_stages",
    "export_onnx",
    "export_stage",
    "export_torch",
]
