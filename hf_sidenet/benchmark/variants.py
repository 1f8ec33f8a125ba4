# SPDX-License-Identifier: Apache-2.0
"""Variants of a checkpoint to compare: its stages, and its MainNet without SideNets, in each precision and engine.

Loading is lazy, so a process that measures one method holds only what this method needs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ..attaching.checkpoint import load_checkpoint
from ..export.exported import ONNX, Manifest, is_exported, read_config
from ..export.onnx import OnnxStages
from ..export.onnx_export import MissingCalibrationRows, export_onnx
from ..inference.compiled import CompiledStages
from ..inference.precision import DTYPES
from ..inference.protocols import StageChain
from ..inference.rows import Row
from ..inference.stages import Stages
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from .methods import COMPILED, EAGER, FLOAT32, ONNX_RUNTIME
from .plain import PlainChain, PlainConfig, PlainOnnx, export_plain, plain_mainnet


INT8 = "int8"
# Precisions in ONNX Runtime → precision of the checkpoint to export.
ONNX_PRECISIONS = {"float32": "float32", "float16": "float16", INT8: "float32"}
CALIBRATION_ROWS = 128


@dataclass(frozen=True)
class Settings:
    """What to compare, as JSON values, so that another process can make the same methods.

    Args:
        directory (`str`): checkpoint with SideNets.
        precisions (`Sequence[str]`): `"float32"`, `"bfloat16"`, `"float16"`.
        engines (`Sequence[str]`): `"eager"`, `"compiled"`, `"ONNX Runtime"`.
        also (`Sequence[str]`, *optional*):
            Checkpoints recalibrated in another precision and exported folders, which replace `directory` in their
            precisions; these precisions are compared too.
        onnx (`Mapping[str, Sequence[str]]`, *optional*): exported folder and file of the plain MainNet, by precision,
            from [`Catalog.with_onnx`].
        thresholds (`Sequence[float]`, *optional*): θ, instead of the checkpoints' own.
        device (`str`, *optional*, defaults to `"cpu"`): device of all methods.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether the MainNet's own code may run.
    """

    directory: str
    precisions: Sequence[str] = ("float32",)
    engines: Sequence[str] = (EAGER,)
    also: Sequence[str] = ()
    thresholds: Sequence[float] | None = None
    device: str = "cpu"
    onnx: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trust_remote_code: bool = False


class Checkpoint:
    """Checkpoint with SideNets, loaded in one precision.

    Args:
        directory (`str`): folder or Hub id.
        precision (`str`, *optional*): name of a dtype; defaults to the stored one.
        device (`torch.device`): device of the model.
        trust_remote_code (`bool`): whether the MainNet's own code may run.

    Raises:
        ValueError: its weights are quantized, which its dtype does not show.
    """

    def __init__(self, directory: str, precision: str | None, device: torch.device, trust_remote_code: bool = False):
        self.directory = directory
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.config = SideNetConfig.from_pretrained(directory)
        if getattr(self.config, "quantization_config", None) is not None:
            raise ValueError(f"a checkpoint must not be quantized for the benchmark, got {directory!r}.")
        self.dtype = cast(torch.dtype, self.config.dtype) if precision is None else getattr(torch, precision)

    @property
    def precision(self) -> str:
        """Name of its dtype."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def model(self) -> SideNetPreTrainedModel:
        """Model with its SideNets."""
        model, _ = load_checkpoint(
            self.directory, check=False, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        return model.to(self.device)  # pyright: ignore[reportArgumentType]  the types of its wrapper lack `self`

    @cached_property
    def plain(self) -> PreTrainedModel:
        """Its MainNet alone."""
        return plain_mainnet(self.model)


class TorchVariant:
    """Checkpoint run by PyTorch.

    Args:
        checkpoint ([`Checkpoint`]): checkpoint in its precision.
        engine (`str`): `"eager"` or `"compiled"`.
        thresholds (`Sequence[float]`, *optional*): θ, instead of the checkpoint's.
    """

    def __init__(self, checkpoint: Checkpoint, engine: str, thresholds: Sequence[float] | None = None):
        self.checkpoint = checkpoint
        self.engine = engine
        self.precision = checkpoint.precision
        self.dtype = checkpoint.dtype
        self.temperatures = checkpoint.config.temperatures
        self.thresholds = tuple(thresholds or checkpoint.config.thresholds)
        self.note = note_on_thresholds(checkpoint.config, self.precision, thresholds is not None)

    def stages(self) -> StageChain:
        """Return the chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """Return the MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> SideNetPreTrainedModel | None:
        """Return the model if its own forward runs in this engine."""
        return self.checkpoint.model if self.engine == EAGER else None

    @cached_property
    def _stages(self) -> StageChain:
        return in_engine(Stages(self.checkpoint.model), self.engine)

    @cached_property
    def _plain(self) -> Any:
        return in_engine(PlainChain(self.checkpoint.plain), self.engine)


class OnnxVariant:
    """Exported folder; see [`TorchVariant`].

    Args:
        folder (`str`): folder made by `hf-sidenet export`.
        plain (`str`): file of [`export_plain`].
        thresholds (`Sequence[float]`, *optional*): θ, instead of the folder's.
    """

    engine = ONNX_RUNTIME

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

    def stages(self) -> StageChain:
        """Return the chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """Return the MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> None:
        """Return `None`: ONNX Runtime runs only stages, not the model's own forward."""
        return None

    @cached_property
    def _stages(self) -> OnnxStages:
        return OnnxStages.load(self.folder)

    @cached_property
    def _plain(self) -> PlainOnnx:
        return PlainOnnx(self.plain_file, PlainConfig(self.config.mainnet_config), self.dtype)


class Choice:
    """Variants that the settings ask for. A checkpoint or folder calibrated in a precision replaces the base
    checkpoint in that precision.

    Args:
        settings ([`Settings`]): what to compare.
        base ([`Checkpoint`]): checkpoint of `settings.directory`, as stored.

    Raises:
        ValueError: `also` names something with other SideNets, classes or MainNet, or two items of the same precision,
            or `precisions` contains one that no chosen engine runs.
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
            checkpoint = Checkpoint(path, None, base.device, settings.trust_remote_code)
            self._check(path, checkpoint.config)
            if checkpoint.precision in self.checkpoints:
                raise ArgumentError(
                    "also",
                    f"must name one checkpoint per precision, got two in {checkpoint.precision}: {path!r}",
                )
            self.checkpoints[checkpoint.precision] = checkpoint
        self.precisions = tuple(dict.fromkeys([*settings.precisions, *self.checkpoints]))
        for name, precisions in (("precisions", settings.precisions), ("also", self.checkpoints)):
            for precision in precisions:
                self._check_engines(name, precision)

    def variants(self) -> list[TorchVariant | OnnxVariant]:
        """Return all variants, PyTorch first."""
        engines = [engine for engine in self.settings.engines if engine != ONNX_RUNTIME]
        found: list[TorchVariant | OnnxVariant] = [
            TorchVariant(self._checkpoint(precision), engine, self.settings.thresholds)
            for precision in self.precisions
            if precision != INT8
            for engine in engines
        ]
        return [*found, *onnx_variants(self.settings)]

    def for_onnx(self) -> dict[str, Checkpoint]:
        """Return the checkpoints for ONNX Runtime by precision: exported ones, and supported requested ones."""
        asked = self.settings.precisions if self._onnx_wanted() else ()
        precisions = dict.fromkeys([*(each for each in asked if each in ONNX_PRECISIONS), *self.exported])
        return {precision: self._checkpoint(ONNX_PRECISIONS[precision]) for precision in precisions}

    def for_reference(self) -> Checkpoint:
        """Return the checkpoint whose forward gives the expected answers: in float32 if compared, else as stored."""
        return self._checkpoint(FLOAT32) if FLOAT32 in {*self.precisions, *self.exported} else self.base

    def left_out(self, precision: str) -> str:
        """Return a note on the chosen engines that do not run a compared precision; empty if all do."""
        without = [engine for engine in self.settings.engines if engine not in _engines_of(precision)]
        return f"{precision} does not run in {', '.join(without)}" if without and precision in self.precisions else ""

    def export(self, folder: str | os.PathLike, rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
        """Export what is missing; see [`export_variants`]."""
        return export_variants(self.for_onnx(), self.exported, folder, rows)

    def _onnx_wanted(self) -> bool:
        return ONNX_RUNTIME in self.settings.engines

    def _checkpoint(self, precision: str) -> Checkpoint:
        if precision not in self.checkpoints:
            own = precision == self.base.precision
            self.checkpoints[precision] = (
                self.base
                if own
                else Checkpoint(self.settings.directory, precision, self.base.device, self.settings.trust_remote_code)
            )
        return self.checkpoints[precision]

    def _check(self, path: str, config: SideNetConfig) -> None:
        own, other = _described(self.base.config), _described(config)
        for what, expected in own.items():
            if other[what] != expected:
                raise ArgumentError(
                    "also",
                    f"must have {what} {expected}, like the checkpoint, got {path!r} with {other[what]}",
                )

    def _check_engines(self, name: str, precision: str) -> None:
        able, chosen = _engines_of(precision), self.settings.engines
        if not set(able) & set(chosen):
            raise ArgumentError(
                name,
                f"must have precisions that a chosen engine, {' or '.join(chosen)}, runs, got "
                f"{precision!r}, which {' or '.join(able) or 'none'} runs",
            )


def onnx_variants(settings: Settings) -> list[OnnxVariant]:
    """Return the variants exported for ONNX Runtime."""
    return [OnnxVariant(folder, plain, settings.thresholds) for folder, plain in settings.onnx.values()]


def exported_by_precision(paths: Sequence[str]) -> dict[str, str]:
    """Return exported folders by the precision in which they compute.

    Raises:
        ValueError: a folder is damaged, not for ONNX Runtime, or two have the same precision.
    """
    found: dict[str, str] = {}
    for path in paths:
        precision = Manifest.read(path, ONNX).precision
        if precision in found:
            raise ArgumentError(
                "also",
                f"must name one exported folder per precision, got two in {precision}: {path!r}",
            )
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
        checkpoints (`Mapping[str, Checkpoint]`): checkpoints to export, by the precision in which they will compute.
        exported (`Mapping[str, str]`): existing exported folders.
        folder (`str` or `os.PathLike`): output folder.
        rows (`Sequence[Row]`): rows to calibrate the convolutions of a plain MainNet in int8. They are the benchmark's
            own rows, which favors the plain MainNet.

    Returns:
        `dict[str, tuple[str, str]]`: exported folder and file of the plain MainNet, by precision.

    Raises:
        ValueError: convolutions in int8 need calibration rows other than the benchmark's.
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


def in_engine(chain: Stages | PlainChain, engine: str) -> Any:
    """Return a chain as is, or compiled.

    Args:
        chain ([`Stages`] or [`PlainChain`]): chain of torch modules.
        engine (`str`): `"eager"` or `"compiled"`.
    """
    # Both have all attributes that CompiledStages reads.
    return CompiledStages(cast(Stages, chain), {}) if engine == COMPILED else chain


def note_on_thresholds(config: SideNetConfig, precision: str, by_hand: bool) -> str:
    """Return a note on θ if it was not calibrated in this precision, else an empty string.

    Args:
        config ([`SideNetConfig`]): config with the evidence.
        precision (`str`): precision of the variant.
        by_hand (`bool`): whether θ was given to the benchmark.
    """
    if by_hand:
        return "θ given by hand"
    if config.calibration is None:
        return "θ without evidence"
    # In "int8 (ONNX Runtime)" only the number format matters.
    calibrated = config.calibration.get("precision", "unknown precision").partition(" ")[0]
    return "" if calibrated == precision else f"θ certified in {calibrated}"


def _export(checkpoint: Checkpoint, folder: str, int8: bool) -> None:
    try:
        export_onnx(checkpoint.model, folder, int8=int8)
    except MissingCalibrationRows as error:
        raise ArgumentError(
            "also",
            "must name a folder of `hf-sidenet export --int8` for a MainNet of convolutions, "
            "whose ranges are calibrated on training rows, got none",
        ) from error


def _engines_of(precision: str) -> list[str]:
    """Return the engines that run a precision."""
    in_torch = [EAGER, COMPILED] if precision in DTYPES else []
    return [*in_torch, ONNX_RUNTIME] if precision in ONNX_PRECISIONS else in_torch


def _described(config: SideNetConfig) -> dict[str, Any]:
    """Return what must be equal for two checkpoints to answer the same rows."""
    mainnet = config.mainnet_config
    return {
        "SideNets at": config.exit_layers,
        "the classes": label_names(config),
        "a MainNet of type": mainnet.model_type,
        "a vocabulary of size": getattr(mainnet, "vocab_size", None),
    }
