# SPDX-License-Identifier: Apache-2.0
"""The models. Importing this package registers them with the Auto classes; checkpoints do not carry this file."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from . import modeling_sidenet
from .configuration_sidenet import SideNetConfig
from .modeling_base import SideNetOutput, SideNetPreTrainedModel
from .modeling_sidenet import *


def _models(task: type[SideNetPreTrainedModel]) -> tuple[type[SideNetPreTrainedModel], ...]:
    """Return the model classes of a task, the generic one first."""
    named = vars(modeling_sidenet).values()
    return tuple(each for each in named if isinstance(each, type) and issubclass(each, task))


TEXT_MODELS = _models(modeling_sidenet.SideNetForSequenceClassification)
IMAGE_MODELS = _models(modeling_sidenet.SideNetForImageClassification)

# One entry per Auto class holds every model class; a checkpoint's `architectures` picks.
AutoConfig.register("sidenet", SideNetConfig)
AutoModel.register(SideNetConfig, (*TEXT_MODELS, *IMAGE_MODELS))
AutoModelForSequenceClassification.register(SideNetConfig, TEXT_MODELS)
AutoModelForImageClassification.register(SideNetConfig, IMAGE_MODELS)
