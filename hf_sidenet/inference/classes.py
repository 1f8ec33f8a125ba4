# SPDX-License-Identifier: Apache-2.0
"""Find the class that a config names, and load its model."""

import os
from typing import Any

from safetensors import SafetensorError
from transformers import PretrainedConfig

from .. import models
from ..models.configuration_sidenet import SideNetConfig, default_architecture
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel


def model_class(config: SideNetConfig) -> type[SideNetPreTrainedModel]:
    """Return the class of this package that `architectures` names.

    Args:
        config ([`SideNetConfig`]): config of a checkpoint.

    Raises:
        ValueError: it names none, or a class without SideNets.
    """
    name = config.architectures[0] if config.architectures else None
    kind = getattr(models, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, SideNetPreTrainedModel)):
        raise ArgumentError("architectures", "must name a class of hf_sidenet", config.architectures)
    return kind


def sidenet_class(config: PretrainedConfig) -> type[SideNetPreTrainedModel]:
    """Return the SideNet class for a MainNet: the one named after it if there is one, else the generic one.

    Args:
        config (`PretrainedConfig`): config of the MainNet.
    """
    return getattr(models, default_architecture(config))


def load_model(path: str | os.PathLike, config: SideNetConfig, **hub_kwargs: Any) -> SideNetPreTrainedModel:
    """Load the model of a checkpoint with this package's own classes.

    Args:
        path (`str`): folder or Hub id.
        config ([`SideNetConfig`]): config of the checkpoint.
        hub_kwargs (`Any`): arguments of `from_pretrained`.

    Raises:
        ValueError: config and weights do not match, or one of them is damaged.
    """
    kind = model_class(config)
    try:
        return kind.from_pretrained(path, **hub_kwargs)
    # Raised for damaged weights, or while building a MainNet from invalid numbers.
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
