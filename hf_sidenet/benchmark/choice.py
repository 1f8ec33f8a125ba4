# SPDX-License-Identifier: Apache-2.0
"""Which precisions and engines are compared, and what each is made of."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..export.exported import read_config
from ..export.manifest import is_exported
from ..inference.precision import DTYPES
from ..inference.rows import Row
from ..models.configuration_sidenet import SideNetConfig
from .methods import COMPILED, EAGER, FLOAT32, ONNX
from .onnx_variant import PRECISIONS, OnnxVariant, export_variants, exported_by_precision
from .settings import Settings
from .variants import Checkpoint, TorchVariant


INT8 = "int8"


class Choice:
    """What settings ask for, resolved: whatever was calibrated for a precision takes the checkpoint's place there.

    Args:
        settings ([`Settings`]): what is compared.
        base ([`Checkpoint`]): of `settings.directory`, as it is stored.

    Raises:
        ValueError: `also` names something with other SideNets, classes or MainNet, or two of one precision, or
            `precisions` one that no chosen engine runs.
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
            if checkpoint.precision in self.checkpoints:
                raise ValueError(
                    f"`also` must name one checkpoint per precision, got two in {checkpoint.precision}: {path!r}."
                )
            self.checkpoints[checkpoint.precision] = checkpoint
        self.precisions = tuple(dict.fromkeys([*settings.precisions, *self.checkpoints]))
        for name, precisions in (("precisions", settings.precisions), ("also", self.checkpoints)):
            for precision in precisions:
                self._check_engines(name, precision)

    def variants(self) -> list[TorchVariant | OnnxVariant]:
        """Everything that runs here, PyTorch first."""
        engines = [engine for engine in self.settings.engines if engine != ONNX]
        found: list[TorchVariant | OnnxVariant] = [
            TorchVariant(self._checkpoint(precision), engine, self.settings.thresholds)
            for precision in self.precisions
            if precision != INT8
            for engine in engines
        ]
        return [*found, *onnx_variants(self.settings)]

    def for_onnx(self) -> dict[str, Checkpoint]:
        """What ONNX Runtime is to run, by precision: what was exported, and the precisions asked for that it has."""
        asked = self.settings.precisions if self._onnx_wanted() else ()
        precisions = dict.fromkeys([*(each for each in asked if each in PRECISIONS), *self.exported])
        return {precision: self._checkpoint(PRECISIONS[precision]) for precision in precisions}

    def for_reference(self) -> Checkpoint:
        """Whose own forward says what each row has to get: in float32 where that is compared, else as it is stored."""
        return self._checkpoint(FLOAT32) if FLOAT32 in {*self.precisions, *self.exported} else self.base

    def left_out(self, precision: str) -> str:
        """Which chosen engines do not run a precision that is compared; empty where all do."""
        without = [engine for engine in self.settings.engines if engine not in _engines_of(precision)]
        return f"{precision} is not run by {', '.join(without)}" if without and precision in self.precisions else ""

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
        own, other = _described(self.base.config), _described(config)
        for what, expected in own.items():
            if other[what] != expected:
                raise ValueError(
                    f"`also` must name what has {what} {expected}, as the checkpoint, got {path!r} with {other[what]}."
                )

    def _check_engines(self, name: str, precision: str) -> None:
        able, chosen = _engines_of(precision), self.settings.engines
        if not set(able) & set(chosen):
            raise ValueError(
                f"`{name}` must have precisions that a chosen engine, {' or '.join(chosen)}, runs, got {precision!r}, "
                f"which {' or '.join(able) or 'none'} runs."
            )


def _engines_of(precision: str) -> list[str]:
    """All that run it."""
    return [*((EAGER, COMPILED) if precision in DTYPES else ()), *((ONNX,) if precision in PRECISIONS else ())]


def _described(config: SideNetConfig) -> dict[str, Any]:
    """What has to be the same, so that both answer the same rows."""
    mainnet = config.mainnet_config
    return {
        "SideNets at": config.exit_layers,
        "the classes": list(config.id2label.values()),
        "a MainNet of type": mainnet.model_type,
        "a vocabulary of size": getattr(mainnet, "vocab_size", None),
    }


def onnx_variants(settings: Settings) -> list[OnnxVariant]:
    """What was exported, as it runs."""
    return [OnnxVariant(folder, plain, settings.thresholds) for folder, plain in settings.onnx.values()]
