# SPDX-License-Identifier: Apache-2.0
"""What a runner needs of the parts that others may bring: a chain of stages, and an engine that sends rows through."""

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
    """A model with SideNets, or anything that is made of one, and its config with θ and the evidence behind it."""

    @property
    def config(self) -> SideNetConfig:
        """See [`SideNetConfig`]."""
        ...


class ServedModel(Protocol):
    """What reading rows for a model needs to know of it: a [`StageChain`], or one that has no stages.

    Attributes:
        config ([`SideNetConfig`]): θ, temperatures, classes and the evidence behind θ.
        task ([`Task`]): what an answer is.
        modality ([`Modality`]): what a row is.
        device (`torch.device`): where inputs go.
        dtype (`torch.dtype`): of floating-point inputs.
        precision (`str`): in which it computes, as `"bfloat16"` or `"int8 (ONNX Runtime)"`.
        input_names (`tuple[str, ...]`): the inputs that it takes.
        max_length (`int`, *optional*): tokens of the longest text; `None` where nothing limits them.
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
            ValueError: they may. A chain whose weights are files has nothing to refuse.
        """
        ...


@runtime_checkable
class StageChain(ServedModel, Protocol):
    """A model as a chain of stages, of any runtime: [`Stages`], compiled or exported ones, or your own.

    Stage 0 goes from a batch of inputs to x_c and the logits of the first SideNet, each other stage from x_c to the
    next; the last gives the MainNet's logits. A chain without SideNets has one stage. Its attributes are those of a
    [`ServedModel`].
    """

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Run one stage.

        Args:
            index (`int`): which stage.
            hidden (`torch.Tensor` of shape `(rows, ...)`, *optional*): x_c that it starts from; `None` for stage 0.
            inputs (`dict[str, torch.Tensor]`): the MainNet's inputs of the same rows; see
                [`Modality.later_inputs`] for what later stages get.

        Returns:
            x_c where the stage ends (`None` for the last), and logits of shape `(rows, num_labels)`.
        """
        ...


class Engine(Protocol):
    """Takes batches of rows and gives answers, in any order. Not for several threads."""

    @property
    def waiting(self) -> int:
        """Rows that have come and are not answered."""
        ...

    @property
    def since(self) -> float:
        """When the row began to wait that has waited longest, of `time.monotonic`; infinite where none waits, and
        minus infinity where answers are on their way."""
        ...

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Take some rows.

        Returns:
            `list[Prediction]`: all answers that there are now, also of rows that came earlier.
        """
        ...

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Answer rows that wait, without waiting for more.

        Args:
            before (`float`, *optional*): only those that came before this, of `time.monotonic`; by default all.
        """
        ...


Chain = TypeVar("Chain", bound=ServedModel)


def with_own_config(stages: Chain) -> Chain:
    """The same chain with a copy of its config, which nobody else can change.

    Args:
        stages ([`ServedModel`]): shares everything else.
    """
    own = copy.copy(stages)
    own.config = copy.deepcopy(stages.config)
    return own
