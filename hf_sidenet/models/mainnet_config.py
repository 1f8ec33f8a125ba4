# SPDX-License-Identifier: Apache-2.0
"""The MainNet's config inside a [`SideNetConfig`]: reading it, and the fields that are its own."""

import copy
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES


# The class that a config without `architectures` is built with, by the MainNet's model type.
NAMED_ARCHITECTURES = {
    "bert": "BertWithSideNetForSequenceClassification",
    "distilbert": "DistilBertWithSideNetForSequenceClassification",
    "roberta": "RobertaWithSideNetForSequenceClassification",
    "xlm-roberta": "XLMRobertaWithSideNetForSequenceClassification",
    "camembert": "CamembertWithSideNetForSequenceClassification",
    "electra": "ElectraWithSideNetForSequenceClassification",
    "mpnet": "MPNetWithSideNetForSequenceClassification",
    "deberta-v2": "DebertaV2WithSideNetForSequenceClassification",
    "modernbert": "ModernBertWithSideNetForSequenceClassification",
    "resnet": "ResNetWithSideNetForImageClassification",
    "regnet": "RegNetWithSideNetForImageClassification",
    "convnext": "ConvNextWithSideNetForImageClassification",
    "convnextv2": "ConvNextV2WithSideNetForImageClassification",
    "deit": "DeiTWithSideNetForImageClassification",
    "dinov2": "Dinov2WithSideNetForImageClassification",
    "swin": "SwinWithSideNetForImageClassification",
    "vit": "ViTWithSideNetForImageClassification",
    "timm_wrapper": "TimmWithSideNetForImageClassification",
}
# What says how this checkpoint is stored: not the MainNet's, even where its config has the same name. peft compares a
# `vocab_size` with that of the checkpoint in `name_or_path`, which it would read as one with SideNets.
OUTER = ("auto_map", "quantization_config", "vocab_size")
# Fields of the MainNet that config.json repeats at its top, where the Hub and image processors look for them.
REPEATED = ("id2label", "label2id", "problem_type", "architecture", "pretrained_cfg")
# More than any classifier has.
MOST_LAYERS, MOST_LABELS = 1_000, 100_000
# As MainNets' configs call it.
NUMBERS_OF_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "depth")


class MainNetField:
    """A field that every config has: here it is the MainNet's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        # Of the class itself the field's default, as of any other config.
        return getattr(PretrainedConfig if config is None else config.mainnet_config, self.name)

    def __set__(self, config: Any, value: Any) -> None:
        setattr(config.mainnet_config, self.name, value)


def as_config(mainnet_config: PretrainedConfig | dict | None) -> PretrainedConfig:
    """A copy of a MainNet's config, from itself or from what config.json holds.

    Raises:
        ValueError: transformers does not know its kind, or a field is impossible.
    """
    if mainnet_config is None:
        mainnet_config = {"model_type": "bert"}
    if isinstance(mainnet_config, dict):
        model_type = mainnet_config.get("model_type")
    else:
        model_type = getattr(mainnet_config, "model_type", None)
    # A model of remote code could be attached and saved, but the checkpoint would not load.
    if model_type not in CONFIG_MAPPING or model_type == "sidenet":
        raise ValueError(f"`mainnet_config` must have a 'model_type' that transformers knows, got {model_type!r}.")
    if not isinstance(mainnet_config, dict):
        return copy.deepcopy(mainnet_config)
    try:
        # Not `AutoConfig.for_model`, which skips the `from_dict` that timm's wrapper reads its labels with.
        return CONFIG_MAPPING[model_type].from_dict(dict(mainnet_config))
    except ImportError:
        raise
    # Each MainNet's config checks its fields in its own way.
    except Exception as error:
        raise ValueError(f"`mainnet_config` is impossible: {' '.join(str(error).split())}") from error


def check_size(config_dict: dict[str, Any]) -> None:
    """Refuse what config.json may ask for and no classifier has: to build it would take hours, or all memory.

    Args:
        config_dict (`dict[str, Any]`): of a [`SideNetConfig`].

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


def default_architecture(mainnet_config: PretrainedConfig) -> str:
    """Name of the class that a [`SideNetConfig`] without `architectures` is built with."""
    model_type = mainnet_config.model_type
    if model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return NAMED_ARCHITECTURES.get(model_type, "SideNetForImageClassification")
    return NAMED_ARCHITECTURES.get(model_type, "SideNetForSequenceClassification")
