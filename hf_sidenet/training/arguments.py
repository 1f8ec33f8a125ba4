# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments of a training script, for `transformers.HfArgumentParser`."""

import json
from dataclasses import dataclass, field
from typing import Any


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
            raise ValueError(f"`config_overrides` must be JSON, got {self.config_overrides!r} ({error}).") from error
        if not isinstance(overrides, dict):
            raise ValueError(f"`config_overrides` must be a JSON object, got {self.config_overrides!r}.")
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
