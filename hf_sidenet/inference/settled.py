# SPDX-License-Identifier: Apache-2.0
"""Immutable state of a runner, taken from a model or a chain of stages."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..data.formats import Processor
from ..io.fingerprint import answering_fields
from ..models.configuration_sidenet import chain_of
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from .certificate import why_not_certified
from .compiled import CompiledStages
from .precision import cast_copy, check_precision, precision_of
from .protocols import Engine, ServedModel, StageChain, with_own_config
from .reading import RowReader
from .routings import AUTO, GATES, engines_of
from .stages import Served, Stages, StagesError


logger = logging.get_logger(__name__)


class Settled:
    """Chain of stages with its reader, θ and engines.

    Fixed at construction, regardless of later changes to the model's config or mode. Each answer comes from one of
    these alone.

    Args:
        model ([`SideNetPreTrainedModel`], [`OnnxStages`] or [`Stages`]): see [`SideNetRunner`].
        thresholds (`float` or `list[float]`, *optional*): θ, by default the model's.
        processor (tokenizer or image processor, *optional*): see [`SideNetRunner`].
        routing (`str`): see [`SideNetRunner`].
        compile (`bool` or `dict[str, Any]`): see [`SideNetRunner`].
        dtype (`torch.dtype`, *optional*): see [`SideNetRunner`].
        max_length (`int`, *optional*): see [`SideNetRunner`].
        pool_size (`int`): see [`PoolingEngine`].

    Raises:
        StagesError: `routing` or `compile` needs stages, but this MainNet has none.
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        model: SideNetPreTrainedModel | StageChain,
        thresholds: float | Sequence[float] | None,
        *,
        processor: Processor | None,
        routing: str,
        compile: bool | dict[str, Any],
        dtype: torch.dtype | None,
        max_length: int | None,
        pool_size: int,
    ):
        # Not `SideNetPreTrainedModel`: a checkpoint loaded with its own code has another copy of that class.
        is_torch = isinstance(model, PreTrainedModel)
        if not is_torch and not isinstance(model, StageChain):
            raise ArgumentError(
                "model",
                "must be a model with SideNets or a chain of stages, got a "
                f"{type(model).__name__}. With peft, pass the result of `merge_and_unload()`",
            )
        if not is_torch and (compile or dtype is not None):
            raise ArgumentError("compile", "and `dtype` need a torch model, got a chain of stages")
        if routing == GATES and (compile or not is_torch):
            raise ValueError(f"`routing='{GATES}'` needs a torch model that is not compiled.")
        own: SideNetPreTrainedModel | None = None
        stages: ServedModel
        if is_torch:
            given = cast(SideNetPreTrainedModel, model)
            given = given if dtype in (None, given.dtype) else cast_copy(given, dtype)
            served = _stages_of(given, needed=bool(compile) or routing not in (AUTO, GATES))
            self.certified: SideNetPreTrainedModel | StageChain = served.model
            if compile:
                stages = CompiledStages(cast(Stages, served), compile if isinstance(compile, dict) else {})
            else:
                stages, own = served, served.model
        else:
            stages = self.certified = with_own_config(cast(StageChain, model))
        self.stages = stages
        self.compile = compile
        self.pool_size = pool_size
        self.reader = RowReader(stages, processor, max_length)
        self.thresholds = self.reader.thresholds(thresholds)
        self.is_certified_precision = check_precision(stages.config, precision_of(stages))
        self.makers: dict[str, Callable[[], Engine]] = engines_of(
            stages,
            own,
            pool_size=pool_size,
            num_in_flight=1 if stages.device.type == "cuda" else 0,
        )

    @cached_property
    def not_certified(self) -> str | None:
        """See [`SideNetRunner.not_certified`]."""
        is_read = self.stages.modality.has_tokens and self.reader.processor is not None
        return why_not_certified(self.certified, self.reader.processor, self.reader.max_length if is_read else None)

    def tell_not_certified(self) -> None:
        """Warn once if the evidence behind θ does not cover this model."""
        # A warning about the precision, given at construction, explains the rest.
        if self.is_certified_precision and self.not_certified is not None:
            logger.warning_once(f"Not certified: {self.not_certified}.")

    def check_mode(self) -> None:
        """Refuse to answer while the model is in training mode. An exported chain has no mode.

        Raises:
            ValueError: it is.
        """
        self.stages.check_mode()

    def check_replaces(self, before: "Settled") -> None:
        """Reject a replacement that is not interchangeable while rows are served.

        Args:
            before ([`Settled`]): the current state.

        Raises:
            ValueError: they differ in more than weights, θ and temperatures; the message says how.
        """
        was, now = before._kind(), self._kind()
        for name in (*was, *(name for name in now if name not in was)):
            if was.get(name) != now.get(name):
                raise ArgumentError(
                    "model",
                    "must differ from the current one only in weights, θ and temperatures, but "
                    f"{name} is {now.get(name)}, not {was.get(name)}: create another runner",
                )

    def _kind(self) -> dict[str, Any]:
        stages, config = self.stages, self.stages.config
        kind = {
            "its kind": type(stages).__name__,
            "the type of its MainNet": config.mainnet_config.model_type,
            "`exit_layers`": list(config.exit_layers),
            "`pooling`": list(config.pooling),
            # Rows on their way have been given logits by the old weights of earlier exits.
            "`chain`": chain_of(config),
            "the list of its classes": label_names(config),
            "its precision": precision_of(stages),
            "its device": str(stages.device),
            "the list of its inputs": list(stages.input_names),
            "its longest text": stages.max_length,
            "the list of its routings": list(self.makers),
        }
        kind |= {f"`{name}` of its MainNet": value for name, value in answering_fields(config.mainnet_config).items()}
        if isinstance(self.certified, PreTrainedModel):
            kind |= {f"the shape of `{name}`": list(p.shape) for name, p in self.certified.named_parameters()}
        return kind


def _stages_of(model: SideNetPreTrainedModel, needed: bool) -> Served:
    try:
        return Stages(model)
    except StagesError as error:
        if needed:
            raise
        logger.warning("Only routing %r is available: %s", GATES, error)
        return Served(model)
