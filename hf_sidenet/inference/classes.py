# SPDX-License-Identifier: Apache-2.0
"""The class that a config names."""

from .. import models
from ..models.configuration_sidenet import SideNetConfig
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
        raise ValueError(f"`architectures` must name a class of hf_sidenet, got {config.architectures!r}.")
    return kind
