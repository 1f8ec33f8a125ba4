# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in ONNX Runtime: an exported folder, and its MainNet exported in the same way."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..export.exported import read_config
from ..export.manifest import ONNX, Manifest
from ..export.onnx import OnnxStages
from ..export.onnx_export import MissingCalibrationRows, export_onnx
from ..inference.rows import Row
from . import methods
from .plain import PlainChain, PlainConfig
from .plain_onnx import PlainOnnx, export_plain
from .variants import Checkpoint, note_on_thresholds


# What ONNX Runtime runs, and in which precision the checkpoint is exported for it.
PRECISIONS = {"float32": "float32", "float16": "float16", "int8": "float32"}
CALIBRATION_ROWS = 128


class OnnxVariant:
    """An exported folder; see [`TorchVariant`].

    Args:
        folder (`str`): of `hf-sidenet export`.
        plain (`str`): file of [`export_plain`].
        thresholds (`Sequence[float]`, *optional*): θ instead of the folder's.
    """

    engine = methods.ONNX

    def __init__(self, folder: str, plain: str, thresholds: Sequence[float] | None = None):
        self.folder = folder
        self.plain_file = plain
        manifest = Manifest.read(folder, ONNX)
        self.config = read_config(folder)
        self.precision = manifest.precision
        self.dtype = getattr(torch, manifest.dtype)
        self.temperatures = self.config.temperatures
        self.thresholds = tuple(thresholds or self.config.thresholds)
        self.note = note_on_thresholds(self.config, self.precision, thresholds is not None)

    def stages(self) -> Any:
        """The chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """The MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> None:
        """There is none whose own forward runs here."""
        return None

    @cached_property
    def _stages(self) -> OnnxStages:
        return OnnxStages.load(self.folder)

    @cached_property
    def _plain(self) -> PlainOnnx:
        return PlainOnnx(self.plain_file, PlainConfig(self.config.mainnet_config), self.dtype)


def exported_by_precision(paths: Sequence[str]) -> dict[str, str]:
    """Exported folders, by the precision in which they compute.

    Raises:
        ValueError: a folder is damaged, not for ONNX Runtime, or two have the same precision.
    """
    found: dict[str, str] = {}
    for path in paths:
        precision = Manifest.read(path, ONNX).precision
        if precision in found:
            raise ValueError(f"`also` must name one exported folder per precision, got two in {precision}: {path!r}.")
        found[precision] = path
    return found


def export_variants(
    checkpoints: Mapping[str, Checkpoint],
    exported: Mapping[str, str],
    folder: str | os.PathLike,
    rows: Sequence[Row],
) -> dict[str, tuple[str, str]]:
    """Export what is missing.

    Args:
        checkpoints (`Mapping[str, Checkpoint]`): what to export, by the precision in which it shall compute.
        exported (`Mapping[str, str]`): folders that are there already.
        folder (`str` or `os.PathLike`): where the others go.
        rows (`Sequence[Row]`): that show a plain MainNet the ranges of its convolutions in int8. They are those of the
            benchmark, which is in its favour.

    Returns:
        `dict[str, tuple[str, str]]`: exported folder and file of the plain MainNet, by precision.

    Raises:
        ValueError: int8 of convolutions needs rows that are not those of the benchmark.
    """
    found = {}
    for precision, checkpoint in checkpoints.items():
        int8 = precision == "int8"
        stages = exported.get(precision)
        if stages is None:
            stages = str(Path(folder) / precision)
            _export(checkpoint, stages, int8)
        Path(folder).mkdir(parents=True, exist_ok=True)
        plain = str(Path(folder) / f"plain-{precision}.onnx")
        chain = PlainChain(checkpoint.plain, checkpoint.config.input_size)
        export_plain(chain, plain, int8=int8, rows=rows[:CALIBRATION_ROWS])
        found[precision] = (stages, plain)
    return found


def _export(checkpoint: Checkpoint, folder: str, int8: bool) -> None:
    try:
        export_onnx(checkpoint.model, folder, int8=int8)
    except MissingCalibrationRows as error:
        raise ValueError(
            "`also` must name a folder of `hf-sidenet export --int8` for a MainNet of convolutions, since training "
            "rows show their ranges, got none."
        ) from error
