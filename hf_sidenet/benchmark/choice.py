# SPDX-License-Identifier: Apache-2.0
"""Which precisions and engines are compared, and what each is made of."""

import os
from collections.abc import Mapping, Sequence

from ..inference.exported import read_config
from ..inference.rows import Row
from ..models.configuration_sidenet import SideNetConfig
from .methods import ONNX
from .onnx_variant import PRECISIONS, OnnxVariant, export_variants, exported_by_precision, is_exported
from .settings import Settings
from .variants import Checkpoint, TorchVariant


INT8 = "int8"


class Choice:
    """What settings ask for, resolved: whatever was calibrated for a precision takes the checkpoint's place there.

    Args:
        settings ([`Settings`]): what is compared.
        base ([`Checkpoint`]): of `settings.directory`, as it is stored.

    Raises:
        ValueError: `also` names something with other SideNets, or `precisions` one that nothing runs.
    """

    def __init__(self, settings: Settings, base: Checkpoint):
        self.settings = settings
        self.base = base
        self.exported = exported_by_precision([path for path in settings.also if is_exported(path)])
        self.checkpoints: dict[str, Checkpoint] = {}
        for path in settings.also:
            if is_exported(path):
                self._check(path, read_config(path))
                continue
            checkpoint = Checkpoint(path, None, base.device)
            self._check(path, checkpoint.config)
            self.checkpoints[checkpoint.precision] = checkpoint
        if INT8 in settings.precisions and not self._onnx_wanted():
            raise ValueError("`precisions` must have int8 with ONNX Runtime only, got other engines.")

    def variants(self) -> list[TorchVariant | OnnxVariant]:
        """Everything that runs here, PyTorch first."""
        engines = [engine for engine in self.settings.engines if engine != ONNX]
        precisions = dict.fromkeys([*self.settings.precisions, *self.checkpoints])
        found: list[TorchVariant | OnnxVariant] = [
            TorchVariant(self._checkpoint(precision), engine, self.settings.thresholds)
            for precision in precisions
            if precision != INT8
            for engine in engines
        ]
        return [*found, *onnx_variants(self.settings)]

    def for_onnx(self) -> dict[str, Checkpoint]:
        """What ONNX Runtime is to run, by precision: what was exported, and the precisions asked for that it has."""
        asked = self.settings.precisions if self._onnx_wanted() else ()
        precisions = dict.fromkeys([*(each for each in asked if each in PRECISIONS), *self.exported])
        return {precision: self._checkpoint(PRECISIONS[precision]) for precision in precisions}

    def export(self, folder: str | os.PathLike, rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
        """Export what is missing; see [`export_variants`]."""
        return export_variants(self.for_onnx(), self.exported, folder, rows)

    def _onnx_wanted(self) -> bool:
        return ONNX in self.settings.engines

    def _checkpoint(self, precision: str) -> Checkpoint:
        if precision not in self.checkpoints:
            own = precision == self.base.precision
            self.checkpoints[precision] = (
                self.base if own else Checkpoint(self.settings.directory, precision, self.base.device)
            )
        return self.checkpoints[precision]

    def _check(self, path: str, config: SideNetConfig) -> None:
        expected = self.base.config.exit_layers
        if config.exit_layers != expected:
            raise ValueError(
                f"`also` must name what has SideNets at {expected}, as the checkpoint, got {path!r} with "
                f"{config.exit_layers}."
            )


def onnx_variants(settings: Settings) -> list[OnnxVariant]:
    """What was exported, as it runs."""
    return [OnnxVariant(folder, plain, settings.thresholds) for folder, plain in settings.onnx.values()]
