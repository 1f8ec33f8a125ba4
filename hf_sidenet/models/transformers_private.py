# SPDX-License-Identifier: Apache-2.0
"""Every private name of transformers that this package reads, with the reason. A test keeps them here.

What a model class itself defines for transformers (`_init_weights`, `_no_split_modules`, `_supports_sdpa`,
`_auto_class`, ...) is the interface for authors of models, private only by its underscore.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass


# The Auto classes have no public base class, which annotations could name.
AutoClass: TypeAlias = type[_BaseAutoModelClass]


def known_classes(auto_class: AutoClass) -> Mapping[type[PretrainedConfig], Any]:
    """Return the class, or classes, that an Auto class builds, by class of the config.

    No public function says it without building a model.
    """
    return cast(Any, auto_class)._model_mapping


def new_model(kind: type[PreTrainedModel], config: PretrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """Build a model of a class that no Auto class knows, with the dtype and the attention of its config.

    `kind(config)` ignores both, and `from_config` exists on Auto classes only.
    """
    return kind._from_config(config, **kwargs)


def attention_of(config: PretrainedConfig) -> str | None:
    """Return the attention implementation; `config.attn_implementation` is an argument, not an attribute."""
    return getattr(config, "_attn_implementation", None)


def mark_initialized(module: nn.Module) -> None:
    """Let `post_init` keep the weights of a module; transformers sets this where it has loaded them."""
    module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]


def initialize(model: PreTrainedModel, module: nn.Module) -> nn.Module:
    """Initialize a module as the model's class does, and nothing else.

    `init_weights` would also initialize modules that a user added.
    """
    return module.apply(model._initialize_weights)


def generation_parameters(config: PretrainedConfig) -> dict[str, Any]:
    """Return the arguments of `generate` in a config, which transformers refuses to save as its own."""
    return config._get_generation_parameters()
