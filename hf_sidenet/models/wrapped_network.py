# SPDX-License-Identifier: Apache-2.0
"""Any `nn.Module` that classifies, as a transformers model: the MainNet of networks that are not from transformers.

The network is built by a function: one of `torchvision.models`, or one of the user's own, which travels with the
checkpoint; see `mainnet_code.py`. A network without such a function works in memory, but cannot be saved.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from .errors import ArgumentError
from .transformers_private import mark_initialized, new_model


TORCHVISION = "torchvision:"
# Name in `mainnet_code` of the user's own function.
FACTORY = "factory"
UNKNOWN = (
    "must be given for this network, which cannot be built again without it: "
    "from_mainnet(..., code='my_net.py:build', trust_remote_code=True) names a function that returns it"
)


class NetworkConfig(PretrainedConfig):
    """Configuration of a wrapped network.

    Args:
        factory (`str`, *optional*):
            What builds the network: `"torchvision:resnet18"`, or `"file.function"` of code that travels with the
            checkpoint; `None` if the network cannot be built again.
        factory_kwargs (`dict`, *optional*): arguments of the factory.
        input_names (`list[str]`, *optional*, defaults to `["pixel_values"]`): inputs with one entry per row.
        by_name (`bool`, *optional*, defaults to `False`): whether the network takes them by name, not by position.
        image_size (`list[int]`, *optional*): height and width of images.
        num_channels (`int`, *optional*): channels of images.
        kwargs: other [`PretrainedConfig`] fields.
    """

    model_type = "wrapped_network"
    _auto_class = "AutoConfig"

    def __init__(
        self,
        factory: str | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        input_names: Sequence[str] = ("pixel_values",),
        by_name: bool = False,
        image_size: list[int] | None = None,
        num_channels: int | None = None,
        **kwargs: Any,
    ):
        self.factory = factory
        self.factory_kwargs = factory_kwargs or {}
        self.input_names = list(input_names)
        self.by_name = by_name
        self.image_size = image_size
        self.num_channels = num_channels
        super().__init__(**kwargs)


class NetworkPreTrainedModel(PreTrainedModel):
    """Wrapped network. Use one of the task classes.

    Args:
        config ([`NetworkConfig`]): what builds the network, and its inputs.
        network (`nn.Module`, *optional*): the network, which keeps its weights; built if it is not given.
    """

    config_class = NetworkConfig
    base_model_prefix = "network"
    config: NetworkConfig

    def __init__(self, config: NetworkConfig, network: nn.Module | None = None):
        super().__init__(config)
        if network is None:
            network = make_network(config, None)
        if torch.get_default_device().type != "meta":
            for module in network.modules():
                mark_initialized(module)
        self.network = network
        # While a checkpoint is loaded, transformers clears what is not in it.
        self._computed = {
            module: {name: module.get_buffer(name).clone() for name in module._non_persistent_buffers_set}
            for module in network.modules()
            if module._non_persistent_buffers_set
        }
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """See [`PreTrainedModel._init_weights`]. Buffers that are in no checkpoint are those that were built."""
        super()._init_weights(module)
        for name, value in self._computed.get(module, {}).items():
            module.get_buffer(name).copy_(value)

    @property
    def input_names(self) -> frozenset[str]:
        """Inputs with one entry per row."""
        return frozenset(self.config.input_names)

    def _classify(self, inputs: dict[str, Any], labels: torch.Tensor | None) -> dict[str, Any]:
        given = {name: inputs[name] for name in self.config.input_names if inputs.get(name) is not None}
        logits = logits_of(self.network(**given) if self.config.by_name else self.network(*given.values()))
        # The loss of transformers' own classifiers.
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return {"loss": loss, "logits": logits}


class NetworkForImageClassification(NetworkPreTrainedModel):
    """Wrapped classifier of images."""

    _auto_class = "AutoModelForImageClassification"
    main_input_name = "pixel_values"

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Classify images of shape `(batch, channels, height, width)`; `labels` of shape `(batch,)` give a loss."""
        return ImageClassifierOutput(**self._classify({"pixel_values": pixel_values, **kwargs}, labels))


class NetworkForSequenceClassification(NetworkPreTrainedModel):
    """Wrapped classifier of texts."""

    _auto_class = "AutoModelForSequenceClassification"
    main_input_name = "input_ids"

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Classify texts, token ids of shape `(batch, sequence)`; `labels` of shape `(batch,)` give a loss."""
        return SequenceClassifierOutput(**self._classify({"input_ids": input_ids, **kwargs}, labels))


# By Auto class.
NETWORKS: dict[str, type[NetworkPreTrainedModel]] = {
    kind._auto_class: kind for kind in (NetworkForImageClassification, NetworkForSequenceClassification)
}


def logits_of(out: Any) -> torch.Tensor:
    """Return the logits in what a network returns.

    Raises:
        ValueError: it is no tensor, and has none.
    """
    found = out if isinstance(out, torch.Tensor) else getattr(out, "logits", None)
    if found is None and isinstance(out, dict):
        found = out.get("logits")
    if not isinstance(found, torch.Tensor):
        raise ArgumentError(
            "mainnet", "must return logits of shape (rows, num_labels), alone or as `.logits`", type(out).__name__
        )
    return found


def is_network(config: PretrainedConfig) -> bool:
    """Return whether this is a [`NetworkConfig`], perhaps of a checkpoint's own code."""
    return config.model_type == NetworkConfig.model_type


def check_can_be_saved(config: PretrainedConfig) -> None:
    """Reject a network that cannot be built again.

    Args:
        config (`PretrainedConfig`): config of a MainNet.

    Raises:
        ValueError: it cannot.
    """
    if is_network(config) and getattr(config, "factory", None) is None:
        raise ArgumentError("code", UNKNOWN)


def torchvision_models() -> Any:
    """Import `torchvision.models`, by name: transformers would ask everyone who loads a checkpoint for it.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ImportError("this MainNet is from torchvision: pip install torchvision") from error


def make_network(config: NetworkConfig, factory: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        config ([`NetworkConfig`]): its config.
        factory (`Callable`, *optional*): the user's own function that `config.factory` names.

    Raises:
        ValueError: nothing builds it.
    """
    name = config.factory
    # Real tensors also where the rest is on "meta": some buffers are in no checkpoint.
    with torch.device("cpu"):
        if name is not None and name.startswith(TORCHVISION):
            return torchvision_models().get_model(
                name.removeprefix(TORCHVISION), weights=None, **config.factory_kwargs
            )
        if factory is None:
            raise ArgumentError("code", UNKNOWN)
        network = factory(**config.factory_kwargs)
    if not isinstance(network, nn.Module):
        raise ArgumentError("code", "must name a function that returns an nn.Module", type(network).__name__)
    return network


def check_same_weights(built: nn.Module, network: nn.Module) -> None:
    """Reject a factory that builds another network.

    Args:
        built (`nn.Module`): what it builds, wrapped.
        network (`nn.Module`): the network, wrapped.

    Raises:
        ValueError: names or shapes of weights differ.
    """
    made, given = ({name: tuple(x.shape) for name, x in each.state_dict().items()} for each in (built, network))
    for name in sorted(made.keys() | given.keys()):
        if made.get(name) != given.get(name):
            shown = name.removeprefix("network.")
            raise ArgumentError(
                "code",
                f"must build this network, but {shown!r} is {made.get(name, 'missing')} there, not "
                f"{given.get(name, 'there')}",
            )


def new_network(auto_name: str, config: NetworkConfig, factory: Any) -> PreTrainedModel:
    """Build a wrapped network with random weights.

    Args:
        auto_name (`str`): name of the Auto class of the task.
        config ([`NetworkConfig`]): its config.
        factory (`Callable`, *optional*): the user's own function that `config.factory` names.
    """
    return new_model(NETWORKS[auto_name], config, network=make_network(config, factory))
