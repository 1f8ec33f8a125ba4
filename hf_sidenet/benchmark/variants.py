# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in one precision and engine: its stages, and its MainNet without SideNets in the same engine.

Nothing is loaded before it is asked for, so that a process which measures one method holds only what that needs.
"""

from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from ..attaching.checkpoint import load_checkpoint
from ..inference.compiled import CompiledStages
from ..inference.stages import Stages
from ..models.configuration_sidenet import SideNetConfig
from ..models.modeling_base import SideNetPreTrainedModel
from .methods import COMPILED, EAGER
from .plain import PlainChain, plain_mainnet


class Checkpoint:
    """A checkpoint with SideNets, loaded in one precision.

    Args:
        directory (`str`): folder or Hub id.
        precision (`str`, *optional*): name of a dtype; by default as it is stored.
        device (`torch.device`): where it goes.

    Raises:
        ValueError: its weights are quantised, which its dtype does not say.
    """

    def __init__(self, directory: str, precision: str | None, device: torch.device):
        self.directory = directory
        self.device = device
        self.config = SideNetConfig.from_pretrained(directory)
        if getattr(self.config, "quantization_config", None) is not None:
            raise ValueError(f"a checkpoint must not be quantised for the benchmark, got {directory!r}.")
        self.dtype = self.config.dtype if precision is None else getattr(torch, precision)

    @property
    def precision(self) -> str:
        """Name of its dtype."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def model(self) -> SideNetPreTrainedModel:
        """The model with its SideNets."""
        return load_checkpoint(self.directory, check=False, dtype=self.dtype)[0].to(self.device)

    @cached_property
    def plain(self) -> PreTrainedModel:
        """Its MainNet alone."""
        return plain_mainnet(self.model)


class TorchVariant:
    """A checkpoint, run by PyTorch.

    Args:
        checkpoint ([`Checkpoint`]): in its precision.
        engine (`str`): `"eager"` or `"compiled"`.
        thresholds (`tuple[float, ...]`, *optional*): θ instead of the checkpoint's.
    """

    def __init__(self, checkpoint: Checkpoint, engine: str, thresholds: tuple[float, ...] | None = None):
        self.checkpoint = checkpoint
        self.engine = engine
        self.precision = checkpoint.precision
        self.dtype = checkpoint.dtype
        self.temperatures = checkpoint.config.temperatures
        self.thresholds = tuple(thresholds or checkpoint.config.thresholds)
        self.note = note_on_thresholds(checkpoint.config, self.precision, thresholds is not None)

    def stages(self) -> Any:
        """The chain of stages."""
        return self._stages

    def plain(self) -> Any:
        """The MainNet alone, as a chain of one stage."""
        return self._plain

    def model(self) -> SideNetPreTrainedModel | None:
        """The model whose own forward runs in this engine, where it does."""
        return self.checkpoint.model if self.engine == EAGER else None

    @cached_property
    def _stages(self) -> Any:
        return in_engine(Stages(self.checkpoint.model), self.engine)

    @cached_property
    def _plain(self) -> Any:
        return in_engine(PlainChain(self.checkpoint.plain), self.engine)


def in_engine(chain: Any, engine: str) -> Any:
    """A chain as it is, or compiled.

    Args:
        chain ([`Stages`] or [`PlainChain`]): of torch modules.
        engine (`str`): `"eager"` or `"compiled"`.
    """
    return CompiledStages(chain, {}) if engine == COMPILED else chain


def note_on_thresholds(config: SideNetConfig, precision: str, by_hand: bool) -> str:
    """What stands behind θ at this precision, where that is not a calibration in it.

    Args:
        config ([`SideNetConfig`]): with the evidence.
        precision (`str`): that answers.
        by_hand (`bool`): whether θ was given to the benchmark.
    """
    if by_hand:
        return "θ given by hand"
    if config.calibration is None:
        return "θ without evidence"
    # Of "int8 (ONNX Runtime)" the number format counts.
    calibrated = config.calibration.get("precision", "unknown precision").partition(" ")[0]
    return "" if calibrated == precision else f"θ certified in {calibrated}"
