# SPDX-License-Identifier: Apache-2.0
"""Interfaces that a runner needs: a chain of stages, and an engine that runs rows through it."""

import copy
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch

from ..models.configuration_sidenet import SideNetConfig
from ..models.modalities import Modality
from ..models.tasks import Task
from .rows import Prediction, Row


class Configured(Protocol):
    """Model with SideNets, or anything made from one, with its config: θ and the evidence behind it."""

    @property
    def config(self) -> SideNetConfig:
        """See [`SideNetConfig`]."""
        ...


class ServedModel(Protocol):
    """Model as seen by the code that reads rows for it: a [`StageChain`], or a model without stages.

    Attributes:
        config ([`SideNetConfig`]): θ, temperatures, classes and the evidence behind θ.
        task ([`Task`]): its task.
        modality ([`Modality`]): its modality.
        device (`torch.device`): device of the inputs.
        dtype (`torch.dtype`): dtype of floating-point inputs.
        precision (`str`): precision of the computation, such as `"bfloat16"` or `"int8 (ONNX Runtime)"`.
        input_names (`tuple[str, ...]`): inputs that it takes.
        max_length (`int`, *optional*): tokens of the longest text; `None` for no limit.
    """

    config: SideNetConfig
    task: Task
    modality: Modality
    device: torch.device
    dtype: torch.dtype
    precision: str
    input_names: tuple[str, ...]
    max_length: int | None

    def __len__(self) -> int:
        """Number of exits."""
        ...

    def check_mode(self) -> None:
        """Refuse to answer while the weights may change.

        Raises:
            ValueError: they may. A chain with weights in files never raises.
        """
        ...


@runtime_checkable
class StageChain(ServedModel, Protocol):
    """Model as a chain of stages in any runtime: [`Stages`], compiled or exported ones, or your own.

    Stage 0 maps a batch of inputs to x_c and logits of the first SideNet, each later stage maps x_c to the next; the
    last returns the MainNet's logits. With a SideNet before the first block (exit layer 0), stage 0 returns no x_c,
    and stage 1 starts from the inputs too. A chain without SideNets has one stage. Its attributes are those of a
    [`ServedModel`].
    """

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Run one stage.

        Args:
            index (`int`): index of the stage.
            hidden (`torch.Tensor` of shape `(rows, ...)`, *optional*): x_c at its start; `None` if no block has run.
            inputs (`dict[str, torch.Tensor]`): MainNet inputs of the same rows; for later stages see
                [`Modality.later_inputs`].

        Returns:
            x_c at the end of the stage (`None` for the last, and before the first block), and logits of shape
            `(rows, num_labels)`.
        """
        ...


class Engine(Protocol):
    """Takes batches of rows and returns answers in any order. Not thread-safe."""

    @property
    def waiting(self) -> int:
        """Number of rows received but not answered."""
        ...

    @property
    def since(self) -> float:
        """Start of the longest current wait, in `time.monotonic`.

        Infinity if no row waits, minus infinity if answers are on their way.
        """
        ...

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Take some rows.

        Returns:
            `list[Prediction]`: all answers available now, including those to earlier rows.
        """
        ...

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Answer waiting rows, without waiting for more.

        Args:
            before (`float`, *optional*): only rows waiting since before this `time.monotonic`; by default all.
        """
        ...


Chain = TypeVar("Chain", bound=ServedModel)


def with_own_config(stages: Chain) -> Chain:
    """Return the chain with a private copy of its config.

    Args:
        stages ([`ServedModel`]): the chain; everything else is shared.
    """
    own = copy.copy(stages)
    own.config = copy.deepcopy(stages.config)
    return own
