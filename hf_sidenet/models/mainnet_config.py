# SPDX-License-Identifier: Apache-2.0
"""The config of the MainNet inside a [`SideNetConfig`]: read from what is stored, and bounded."""

import copy
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from .errors import ArgumentError
from .mainnet_code import is_unread, read_config
from .wrapped_network import NetworkConfig


# More than any classifier has.
MOST_LAYERS, MOST_LABELS = 1_000, 100_000
# Names that MainNet configs use for their depth.
NUMBERS_OF_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth")


def as_config(
    mainnet_config: PretrainedConfig | dict | None, mainnet_code: dict[str, Any] | None = None
) -> PretrainedConfig:
    """Copy a MainNet's config, given as a config or as the contents of config.json.

    Args:
        mainnet_config (`PretrainedConfig` or `dict`, *optional*): the config.
        mainnet_code (`dict`, *optional*): what is recorded of code that transformers lacks.

    Raises:
        ValueError: transformers does not know its model type, or a field is invalid.
    """
    if mainnet_code is not None and mainnet_config is not None:
        if isinstance(mainnet_config, PretrainedConfig) and is_unread(mainnet_config):
            mainnet_config = mainnet_config.to_dict()
        config = read_config(mainnet_config, mainnet_code) if isinstance(mainnet_config, dict) else mainnet_config
        if config is not None:
            return copy.deepcopy(config)
    if mainnet_config is None:
        mainnet_config = {"model_type": "bert"}
    model_type: str | None
    if isinstance(mainnet_config, dict):
        model_type = mainnet_config.get("model_type")
    else:
        model_type = getattr(mainnet_config, "model_type", None)
    # A MainNet with remote code would attach and save, but the checkpoint would not load.
    own = {NetworkConfig.model_type: NetworkConfig}
    if model_type is None or (model_type not in own and model_type not in CONFIG_MAPPING) or model_type == "sidenet":
        raise ArgumentError(
            "mainnet_config",
            "must have a 'model_type' that transformers knows",
            model_type,
            advice="from_mainnet(..., trust_remote_code=True) takes the code of other MainNets along.",
        )
    if not isinstance(mainnet_config, dict):
        return copy.deepcopy(mainnet_config)
    try:
        # Not `AutoConfig.for_model`, which skips the `from_dict` where timm's wrapper reads its labels.
        kind = own[model_type] if model_type in own else CONFIG_MAPPING[model_type]
        return kind.from_dict(dict(mainnet_config))
    except ImportError:
        raise
    # Each MainNet config validates its fields in its own way.
    except Exception as error:
        raise ValueError(f"`mainnet_config` is invalid: {' '.join(str(error).split())}") from error


def check_size(config_dict: dict[str, Any]) -> None:
    """Reject a config.json larger than any classifier: building it could take hours, or all memory.

    Args:
        config_dict (`dict[str, Any]`): fields of a [`SideNetConfig`].

    Raises:
        ValueError: too many blocks or classes.
    """
    mainnet = config_dict.get("mainnet_config")
    for fields in (config_dict, mainnet.to_dict() if isinstance(mainnet, PretrainedConfig) else mainnet):
        if not isinstance(fields, dict):
            continue
        depths = fields.get("depths")
        numbers = [fields.get(name) for name in NUMBERS_OF_LAYERS]
        numbers += [sum(_counts(depths))] if isinstance(depths, list | tuple) else []
        for number in _counts(numbers):
            if number > MOST_LAYERS:
                raise ValueError(f"config.json must have at most {MOST_LAYERS:,} layers, got {number:,}.")
        labels = [len(fields[name]) for name in ("id2label", "label2id") if isinstance(fields.get(name), dict)]
        for number in _counts([*labels, fields.get("num_labels"), fields.get("num_classes")]):
            if number > MOST_LABELS:
                raise ValueError(f"config.json must have at most {MOST_LABELS:,} classes, got {number:,}.")


def _counts(values: Any) -> list[int]:
    return [value for value in values if isinstance(value, int)]
