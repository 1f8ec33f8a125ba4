# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments of a training script, for `transformers.HfArgumentParser`, and the model built from them."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel


@dataclass
class MainNetArguments:
    """MainNet to train on, or checkpoint that already has SideNets."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub id."})
    model_type: str | None = field(
        default=None, metadata={"help": "Instead: random weights for this model type, such as resnet."}
    )
    config_overrides: str = field(
        default="{}", metadata={"help": "Fields of the MainNet's config as JSON: '{\"num_hidden_layers\": 2}'."}
    )
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Hub token, by default the one you logged in with."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})

    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new head if the checkpoint's has another number of classes."}
    )

    def loading(self) -> dict[str, Any]:
        """Return arguments for every `from_pretrained`."""
        return {"revision": self.revision, "token": self.token, "trust_remote_code": self.trust_remote_code}

    def overrides(self) -> dict[str, Any]:
        """Return `config_overrides` as a dictionary.

        Raises:
            ValueError: it is not a JSON object.
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
    """SideNets to train, how to train them, and θ to evaluate at: `HfArgumentParser((SideNetArguments, ...))`.

    Fields of [`SideNetConfig`] have the same meaning here, and are checked there.
    """

    exit_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "For each SideNet, how many blocks run before it; 0: the input. None: train the MainNet alone."
        },
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
            "help": "all: train only the SideNets. body: also the MainNet's last layer. none: everything.",
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
    distillation_temperature: float = field(default=1.0, metadata={"help": "T in the same formula."})
    sidenet_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the SideNets, if different from --learning_rate."}
    )
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Values of θ to evaluate, by default 19 from 0 to 1."}
    )
    max_accuracy_drop: float = field(
        default=0.005,
        metadata={"help": "θ is chosen to lose at most this accuracy on validation rows; not a guarantee."},
    )

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of [`SideNetConfig`], including `exit_layers`, for `from_mainnet`."""

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
    """Load the config of the MainNet, or of a checkpoint that already has SideNets.

    Raises:
        ValueError: neither or both of `model_name_or_path` and `model_type` are given, or a field of
            `config_overrides` is unknown.
    """
    if (mainnet_args.model_name_or_path is None) == (mainnet_args.model_type is None):
        raise ValueError(
            "pass one of `model_name_or_path` and `model_type`, got "
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
    """Return whether the MainNet's last layer is trained on the classes; otherwise it must already know them.

    Args:
        config (`PretrainedConfig`): config from [`load_config`].
        sidenet_args ([`SideNetArguments`]): the SideNets.
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
    """Load a checkpoint with SideNets, attach SideNets to a MainNet, or, without `exit_layers`, load a plain MainNet.

    Args:
        sidenet_class (`type`): [`SideNetForSequenceClassification`] or [`SideNetForImageClassification`].
        config (`PretrainedConfig`): config from [`load_config`].
        names (`list[str]`): names of the classes, in the order of their indices.
        mainnet_args ([`MainNetArguments`]): the MainNet.
        sidenet_args ([`SideNetArguments`]): the SideNets.
        input_size (`list[int]`, *optional*):
            `[channels, height, width]` of the images, by default as in the MainNet's config.

    Raises:
        ValueError: SideNets are specified for a checkpoint that has some, or a MainNet with random weights would be
            frozen.
    """
    path = mainnet_args.model_name_or_path
    if config.model_type == "sidenet":
        default = SideNetArguments().config_fields()
        given = [f"`{name}`" for name, value in sidenet_args.config_fields().items() if value != default[name]]
        if given:
            raise ValueError(
                f"{', '.join(given)} must not be given for {path!r}, which already has SideNets; use "
                "`config_overrides` for what can be changed."
            )
        return sidenet_class.from_pretrained(path, config=config, **mainnet_args.loading())
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
                "gives random weights, which must be trained: `freeze_mainnet` must be 'none'",
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
