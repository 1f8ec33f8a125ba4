# SPDX-License-Identifier: Apache-2.0
"""Export the stages of a model to files that run without it: `torch.export` programs and ONNX graphs."""

from .exported import Exported
from .onnx import OnnxStages
from .onnx_export import export_onnx
from .programs import ExportError, export_stage
from .torch_export import TorchStages, export_torch


__all__ = [
    "ExportError",
    "Exported",
    "OnnxStages",
    "TorchStages",
    "export_onnx",
    "export_stage",
    "export_torch",
]
