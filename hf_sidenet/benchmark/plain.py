# SPDX-License-Identifier: Apache-2.0
"""A classifier without SideNets as a chain of one stage, so that it runs in the same engines as the stages do."""

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..data.lengths import longest_text
from ..models import gate
from ..models.mainnet import find_blocks
from ..models.modalities import IMAGE, TEXT
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import SINGLE_LABEL


@dataclass
class PlainConfig:
    """What engines ask of a chain's config.

    Args:
        mainnet_config (`PretrainedConfig`): of the classifier.
        temperatures (`list[float]`, *optional*): of its one exit.
        input_size (`list[int]`, *optional*): `[channels, height, width]` of images to export it with.
    """

    mainnet_config: PretrainedConfig
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    input_size: list[int] | None = None

    @property
    def id2label(self) -> dict[int, str]:
        """Names of the classes."""
        return self.mainnet_config.id2label

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return self.mainnet_config.num_labels


class PlainStage(nn.Module):
    """Inputs in, logits out.

    Args:
        classifier (`PreTrainedModel`): any.
        names (`tuple[str, ...]`): inputs that it takes; others are left out.
        fixed (`dict[str, Any]`): arguments of every call.
    """

    def __init__(self, classifier: PreTrainedModel, names: tuple[str, ...], fixed: dict[str, Any]):
        super().__init__()
        self.classifier = classifier
        self.names = names
        self.fixed = fixed

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(rows, num_labels)`."""
        known = {name: value for name, value in inputs.items() if name in self.names}
        return self.classifier(**known, **self.fixed, return_dict=True).logits


class PlainChain:
    """As [`Stages`], of one stage.

    Args:
        classifier (`PreTrainedModel`): in evaluation mode.
        input_size (`list[int]`, *optional*): see [`PlainConfig`].
    """

    def __init__(self, classifier: PreTrainedModel, input_size: list[int] | None = None):
        taken = inspect.signature(classifier.forward).parameters
        self.task, self.modality = SINGLE_LABEL, IMAGE if "pixel_values" in taken else TEXT
        self.input_names = tuple(name for name in self.modality.row_inputs if name in taken)
        self.config = PlainConfig(classifier.config, input_size=input_size)
        self.device = classifier.device
        self.dtype = classifier.dtype
        self.max_length = longest_text(classifier) if self.modality.has_tokens else None
        fixed = {"use_cache": False} if "use_cache" in taken else {}
        self.modules = [PlainStage(classifier, self.input_names, fixed).eval()]

    def __len__(self) -> int:
        return 1

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[None, torch.Tensor]:
        """See [`Stages`]."""
        return None, self.modules[index](**inputs)


def plain_mainnet(model: SideNetPreTrainedModel) -> PreTrainedModel:
    """The MainNet as it was before SideNets were attached, sharing its weights: an idle gate costs time too.

    Args:
        model ([`SideNetPreTrainedModel`]): stays as it is.
    """
    shared = {id(tensor): tensor for tensor in (*model.mainnet.parameters(), *model.mainnet.buffers())}
    mainnet = copy.deepcopy(model.mainnet, memo=shared)
    for block in find_blocks(mainnet, model.config.blocks).modules:
        for hooks in (block._forward_pre_hooks, block._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_gate(hook)]:
                del hooks[key]
    return mainnet.eval()


def _is_gate(hook: Any) -> bool:
    return getattr(hook, "func", hook).__module__ == gate.__name__
