# SPDX-License-Identifier: Apache-2.0
"""From a script's arguments to the model that it trains."""

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..models.modeling_base import SideNetPreTrainedModel
from .arguments import MainNetArguments, SideNetArguments


def load_config(mainnet_args: MainNetArguments) -> PretrainedConfig:
    """The config of the MainNet, or of a checkpoint that has SideNets already.

    Raises:
        ValueError: neither or both of `model_name_or_path` and `model_type` are given, or a field of
            `config_overrides` is unknown.
    """
    if (mainnet_args.model_name_or_path is None) == (mainnet_args.model_type is None):
        raise ValueError(
            "give one of `model_name_or_path` and `model_type`, got "
            f"{mainnet_args.model_name_or_path!r} and {mainnet_args.model_type!r}."
        )
    overrides = mainnet_args.overrides()
    if mainnet_args.model_type is not None:
        default = AutoConfig.for_model(mainnet_args.model_type)
        unknown = [name for name in overrides if not hasattr(default, name)]
        config = AutoConfig.for_model(mainnet_args.model_type, **overrides)
    else:
        path, loading = mainnet_args.model_name_or_path, mainnet_args.loading()
        config, unused = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **loading, **overrides)
        unknown = [name for name in overrides if name in unused]
    if unknown:
        raise ValueError(f"`config_overrides` must be fields of a {config.model_type} config, got {unknown}.")
    return config


def learns_classes(config: PretrainedConfig, sidenet_args: SideNetArguments) -> bool:
    """Whether training teaches the MainNet's last layer which output is which class; else it has to know already.

    Args:
        config (`PretrainedConfig`): of [`load_config`].
        sidenet_args ([`SideNetArguments`]): which SideNets.
    """
    if config.model_type == "sidenet":
        return config.freeze_mainnet != "all"
    return sidenet_args.exit_layers is None or sidenet_args.freeze_mainnet != "all"


def build_model(
    sidenet_class: type[SideNetPreTrainedModel],
    config: PretrainedConfig,
    names: list[str],
    mainnet_args: MainNetArguments,
    sidenet_args: SideNetArguments,
    *,
    input_size: list[int] | None = None,
) -> PreTrainedModel:
    """A checkpoint that has SideNets, a MainNet that gets them, or, without `exit_layers`, the MainNet alone.

    Args:
        sidenet_class (`type`): [`SideNetForSequenceClassification`] or [`SideNetForImageClassification`].
        config (`PretrainedConfig`): of [`load_config`].
        names (`list[str]`): names of the classes, in the order of their indices.
        mainnet_args ([`MainNetArguments`]): which MainNet.
        sidenet_args ([`SideNetArguments`]): which SideNets.
        input_size (`list[int]`, *optional*):
            `[channels, height, width]` of the images as they will come, by default what the MainNet's config says.

    Raises:
        ValueError: SideNets are described where there are some, or a MainNet with random weights would be frozen.
    """
    path = mainnet_args.model_name_or_path
    if config.model_type == "sidenet":
        default = SideNetArguments().config_fields()
        given = [f"`{name}`" for name, value in sidenet_args.config_fields().items() if value != default[name]]
        if given:
            raise ValueError(
                f"{', '.join(given)} must not be given for {path!r}, which has SideNets already; `config_overrides` "
                "changes what can be changed."
            )
        loading = mainnet_args.loading()
        loading.pop("trust_remote_code")  # This package's own classes load it.
        return sidenet_class.from_pretrained(path, config=config, **loading)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    auto_class = sidenet_class.mainnet_auto_class
    fields = {**sidenet_args.config_fields(), "input_size": input_size}
    if path is None:
        mainnet = auto_class.from_config(config)
        if sidenet_args.exit_layers is None:
            return mainnet
        if sidenet_args.freeze_mainnet != "none":
            raise ValueError(
                "`model_type` makes random weights, which must learn: `freeze_mainnet` must be 'none', got "
                f"{sidenet_args.freeze_mainnet!r}."
            )
        return sidenet_class.from_mainnet(mainnet, **fields)
    loading = {
        **mainnet_args.loading(),
        "config": config,
        "ignore_mismatched_sizes": mainnet_args.ignore_mismatched_sizes,
    }
    if sidenet_args.exit_layers is None:
        return auto_class.from_pretrained(path, **loading)
    return sidenet_class.from_mainnet(path, **fields, **loading)
