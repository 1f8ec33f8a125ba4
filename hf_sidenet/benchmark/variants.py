# SPDX-License-Identifier: Apache-2.0
"""What of a checkpoint is compared: its stages, and its MainNet without SideNets, in each precision and engine.

Nothing is loaded before it is needed, so that a process which measures one method holds only what that one needs.
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
# What ONNX Runtime runs, and in which precision the checkpoint is exported for it.
ONNX_PRECISIONS = {"float32": "float32", "float16": "float16", INT8: "float32"}
CALIBRATION_ROWS = 128


@dataclass(frozen=True)
class Settings:
    """What is compared, in values for JSON, so that another process can make the same methods.

    Args:
        directory (`str`): checkpoint with SideNets.
        precisions (`Sequence[str]`): `"float32"`, `"bfloat16"`, `"float16"`.
        engines (`Sequence[str]`): `"eager"`, `"compiled"`, `"ONNX Runtime"`.
        also (`Sequence[str]`, *optional*):
            Checkpoints that were calibrated again in another precision and exported folders, which take the place of
            `directory` there; their precisions are compared too.
        onnx (`Mapping[str, Sequence[str]]`, *optional*): exported folder and file of the plain MainNet, by precision;
            of [`Catalog.with_onnx`].
        thresholds (`Sequence[float]`, *optional*): θ instead of the checkpoints' own.
        device (`str`, *optional*, defaults to `"cpu"`): where all of them run.
    """

    directory: str
    precisions: Sequence[str] = ("float32",)
    engines: Sequence[str] = (EAGER,)
    also: Sequence[str] = ()
    thresholds: Sequence[float] | None = None
    device: str = "cpu"
    onnx: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Checkpoint:
    """A checkpoint with SideNets, loaded in one precision.

    Args:
        directory (`str`): folder or Hub id.
        precision (`str`, *optional*): name of a dtype; by default as it is stored.
        device (`torch.device`): where it goes.

    Raises:
        ValueError: its weights are quantized, which its dtype does not say.
    """

    def __init__(self, directory: str, precision: str | None, device: torch.device):
        self.directory = directory
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
        """The model with its SideNets."""
        model, _ = load_checkpoint(self.directory, check=False, dtype=self.dtype)
        return model.to(self.device)  # pyright: ignore[reportArgumentType]  the types of its wrapper lack `self`

    @cached_property
    def plain(self) -> PreTrainedModel:
        """Its MainNet alone."""
        return plain_mainnet(self.model)


class TorchVariant:
    """A checkpoint, run by PyTorch.

    Args:
        checkpoint ([`Checkpoint`]): in its precision.
        engine (`str`): `"eager"` or `"compiled"`.
        thresholds (`Sequence[float]`, *optional*): θ instead of the checkpoint's.
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
        """The chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """The MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> SideNetPreTrainedModel | None:
        """The model, where its own forward runs in this engine."""
        return self.checkpoint.model if self.engine == EAGER else None

    @cached_property
    def _stages(self) -> StageChain:
        return in_engine(Stages(self.checkpoint.model), self.engine)

    @cached_property
    def _plain(self) -> Any:
        return in_engine(PlainChain(self.checkpoint.plain), self.engine)


class OnnxVariant:
    """An exported folder; see [`TorchVariant`].

    Args:
        folder (`str`): of `hf-sidenet export`.
        plain (`str`): file of [`export_plain`].
        thresholds (`Sequence[float]`, *optional*): θ instead of the folder's.
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
        """The chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """The MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> None:
        """`None`: ONNX Runtime runs stages only, not a model with its own forward."""
        return None

    @cached_property
    def _stages(self) -> OnnxStages:
        return OnnxStages.load(self.folder)

    @cached_property
    def _plain(self) -> PlainOnnx:
        return PlainOnnx(self.plain_file, PlainConfig(self.config.mainnet_config), self.dtype)


class Choice:
    """Which variants the settings ask for. A checkpoint or folder that was calibrated in a precision takes the place
    of the base checkpoint there.

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
        """Everything that runs here, PyTorch first."""
        engines = [engine for engine in self.settings.engines if engine != ONNX_RUNTIME]
        found: list[TorchVariant | OnnxVariant] = [
            TorchVariant(self._checkpoint(precision), engine, self.settings.thresholds)
            for precision in self.precisions
            if precision != INT8
            for engine in engines
        ]
        return [*found, *onnx_variants(self.settings)]

    def for_onnx(self) -> dict[str, Checkpoint]:
        """What ONNX Runtime has to run, by precision: exported folders, and the requested precisions it supports."""
        asked = self.settings.precisions if self._onnx_wanted() else ()
        precisions = dict.fromkeys([*(each for each in asked if each in ONNX_PRECISIONS), *self.exported])
        return {precision: self._checkpoint(ONNX_PRECISIONS[precision]) for precision in precisions}

    def for_reference(self) -> Checkpoint:
        """Its own forward gives the expected answers: in float32 if that is compared, else as stored."""
        return self._checkpoint(FLOAT32) if FLOAT32 in {*self.precisions, *self.exported} else self.base

    def left_out(self, precision: str) -> str:
        """Which chosen engines do not run a precision that is compared; empty if all of them do."""
        without = [engine for engine in self.settings.engines if engine not in _engines_of(precision)]
        return f"{precision} is not run by {', '.join(without)}" if without and precision in self.precisions else ""

    def export(self, folder: str | os.PathLike, rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
        """Export what is missing; see [`export_variants`]."""
        return export_variants(self.for_onnx(), self.exported, folder, rows)

    def _onnx_wanted(self) -> bool:
        return ONNX_RUNTIME in self.settings.engines

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
                raise ArgumentError(
                    "also",
                    f"must name what has {what} {expected}, as the checkpoint, got {path!r} with {other[what]}",
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
    """What was exported for ONNX Runtime."""
    return [OnnxVariant(folder, plain, settings.thresholds) for folder, plain in settings.onnx.values()]


def exported_by_precision(paths: Sequence[str]) -> dict[str, str]:
    """Exported folders, by the precision in which they compute.

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
        checkpoints (`Mapping[str, Checkpoint]`): what to export, by the precision in which it will compute.
        exported (`Mapping[str, str]`): folders that exist already.
        folder (`str` or `os.PathLike`): where the others are written.
        rows (`Sequence[Row]`): that show a plain MainNet the ranges of its convolutions in int8. They are those of the
            benchmark, which is in its favor.

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


def in_engine(chain: Stages | PlainChain, engine: str) -> Any:
    """A chain as it is, or compiled.

    Args:
        chain ([`Stages`] or [`PlainChain`]): of torch modules.
        engine (`str`): `"eager"` or `"compiled"`.
    """
    # All that is read of it, both have.
    return CompiledStages(cast(Stages, chain), {}) if engine == COMPILED else chain


def note_on_thresholds(config: SideNetConfig, precision: str, by_hand: bool) -> str:
    """What the reader has to know about θ if it was not calibrated in this precision; else empty.

    Args:
        config ([`SideNetConfig`]): with the evidence.
        precision (`str`): of the variant.
        by_hand (`bool`): whether θ was given to the benchmark.
    """
    if by_hand:
        return "θ given by hand"
    if config.calibration is None:
        return "θ without evidence"
    # Of "int8 (ONNX Runtime)" the number format counts.
    calibrated = config.calibration.get("precision", "unknown precision").partition(" ")[0]
    return "" if calibrated == precision else f"θ certified in {calibrated}"


def _export(checkpoint: Checkpoint, folder: str, int8: bool) -> None:
    try:
        export_onnx(checkpoint.model, folder, int8=int8)
    except MissingCalibrationRows as error:
        raise ArgumentError(
            "also",
            "must name a folder of `hf-sidenet export --int8` for a MainNet of convolutions, "
            "since training rows show their ranges, got none",
        ) from error


def _engines_of(precision: str) -> list[str]:
    """The engines that run a precision."""
    in_torch = [EAGER, COMPILED] if precision in DTYPES else []
    return [*in_torch, ONNX_RUNTIME] if precision in ONNX_PRECISIONS else in_torch


def _described(config: SideNetConfig) -> dict[str, Any]:
    """What has to be equal so that both can answer the same rows."""
    mainnet = config.mainnet_config
    return {
        "SideNets at": config.exit_layers,
        "the classes": label_names(config),
        "a MainNet of type": mainnet.model_type,
        "a vocabulary of size": getattr(mainnet, "vocab_size", None),
    }
