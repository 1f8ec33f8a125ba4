# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments of a training script, for `transformers.HfArgumentParser`, and the model made of them."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel


@dataclass
class MainNetArguments:
    """Which MainNet to train on, or which checkpoint that has SideNets already."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub id."})
    model_type: str | None = field(
        default=None, metadata={"help": "Instead: random weights for a config of this type, as resnet."}
    )
    config_overrides: str = field(
        default="{}", metadata={"help": "Fields of the MainNet's config as JSON: '{\"num_hidden_layers\": 2}'."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Hub token, where the one you logged in with won't do."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})

    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new head where the checkpoint's has another number of classes."}
    )

    def loading(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained`."""
        return {"revision": self.revision, "token": self.token, "trust_remote_code": self.trust_remote_code}

    def overrides(self) -> dict[str, Any]:
        """`config_overrides` as a dictionary.

        Raises:
            ValueError: it is no JSON object.
        """
        try:
            overrides = json.loads(self.config_overrides)
        except json.JSONDecodeError as error:
            raise ArgumentError(
                "config_overrides", f"must be JSON, got {self.config_overrides!r} ({error})"
            ) from error
        if not isinstance(overrides, dict):
            raise ArgumentError("config_overrides", "must be a JSON object", self.config_overrides)
        return overrides


@dataclass
class SideNetArguments:
    """Which SideNets to train, how, and at which θ to evaluate them: `HfArgumentParser((SideNetArguments, ...))`.

    The fields that [`SideNetConfig`] has mean the same here; it checks them.
    """

    exit_layers: list[int] | None = field(
        default=None,
        metadata={"help": "For each SideNet, how many blocks run before it. None: train the MainNet alone."},
    )
    pooling: list[str] = field(
        default_factory=lambda: ["auto"],
        metadata={"help": "How SideNets read a block: auto, mean, cls, gap or flatten; one, or one per SideNet."},
    )
    sidenet_hidden_size: int = field(default=32, metadata={"help": "Width of the SideNets' hidden layer."})
    alpha: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "Loss weight of the SideNets; one, or one per SideNet."}
    )
    freeze_mainnet: str = field(
        default="all",
        metadata={
            "help": "all: only the SideNets learn. body: the MainNet's last layer learns along. none: all learns.",
            "choices": ["all", "body", "none"],
        },
    )
    mainnet_head: str = field(
        default="own",
        metadata={"help": "mlp: give the MainNet a new head shaped like the SideNet.", "choices": ["own", "mlp"]},
    )
    distillation_weight: float = field(
        default=0.0, metadata={"help": "w in (1 − w)·CE + w·T²·KL to the MainNet, the loss of a SideNet."}
    )
    distillation_temperature: float = field(default=1.0, metadata={"help": "T in the same."})
    sidenet_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the SideNets, where it differs from --learning_rate."}
    )
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Values of θ to evaluate, by default 19 from 0 to 1."}
    )
    max_accuracy_drop: float = field(
        default=0.005,
        metadata={"help": "θ is chosen on validation rows, to cost at most this accuracy there; guarantees nothing."},
    )

    def config_fields(self) -> dict[str, Any]:
        """The fields of [`SideNetConfig`], `exit_layers` among them, for `from_mainnet`."""

        def one_or_more(values: list) -> Any:
            return values[0] if len(values) == 1 else values

        return {
            "exit_layers": self.exit_layers,
            "pooling": one_or_more(self.pooling),
            "alpha": one_or_more(self.alpha),
            "sidenet_hidden_size": self.sidenet_hidden_size,
            "freeze_mainnet": self.freeze_mainnet,
            "mainnet_head": self.mainnet_head,
            "distillation_weight": self.distillation_weight,
            "distillation_temperature": self.distillation_temperature,
        }


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
        path, loading = cast(str, mainnet_args.model_name_or_path), mainnet_args.loading()
        found: Any = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **loading, **overrides)
        config, unused = found
        unknown = [name for name in overrides if name in unused]
    if unknown:
        raise ArgumentError("config_overrides", f"must be fields of a {config.model_type} config, got {unknown}")
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
            raise ArgumentError(
                "model_type",
                "makes random weights, which must learn: `freeze_mainnet` must be 'none'",
                sidenet_args.freeze_mainnet,
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
