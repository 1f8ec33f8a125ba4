# SPDX-License-Identifier: Apache-2.0
"""The class that a config names, and its model."""

import os
from typing import Any, cast

from safetensors import SafetensorError
from transformers import PretrainedConfig

from .. import models
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel


def model_class(config: SideNetConfig) -> type[SideNetPreTrainedModel]:
    """The class of this package that `architectures` names.

    Args:
        config ([`SideNetConfig`]): of a checkpoint.

    Raises:
        ValueError: it names none, or something that is no model with SideNets.
    """
    name = config.architectures[0] if config.architectures else None
    kind = getattr(models, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, SideNetPreTrainedModel)):
        raise ArgumentError("architectures", "must name a class of hf_sidenet", config.architectures)
    return kind


def sidenet_class(config: PretrainedConfig) -> type[SideNetPreTrainedModel]:
    """The class of models with SideNets for a MainNet, the one that carries its name where there is one.

    Args:
        config (`PretrainedConfig`): of the MainNet.
    """
    # A config names a class from the beginning.
    names = cast("list[str]", SideNetConfig(config).architectures)
    return getattr(models, names[0])


def load_model(path: str | os.PathLike, config: SideNetConfig, **hub_kwargs: Any) -> SideNetPreTrainedModel:
    """The model of a checkpoint, by this package's own classes.

    Args:
        path (`str`): folder or Hub id.
        config ([`SideNetConfig`]): of the same.
        hub_kwargs (`Any`): of `from_pretrained`.

    Raises:
        ValueError: config and weights do not fit each other, or one of them is damaged.
    """
    kind = model_class(config)
    try:
        return kind.from_pretrained(path, **hub_kwargs)
    # Of damaged weights, and what a MainNet does that is built from numbers which cannot be.
    except (
        SafetensorError,
        RuntimeError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        AssertionError,
    ) as error:
        what = " ".join(str(error).split())
        raise ValueError(
            f"{str(path)!r} cannot be built from its config.json and weights: {type(error).__name__}: {what}"
        ) from error
