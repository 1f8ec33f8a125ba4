# SPDX-License-Identifier: Apache-2.0
"""What of a row a MainNet can read: as many tokens as it has positions, and pictures in its own channels."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..models.modalities import IMAGE


logger = logging.get_logger(__name__)

# Where nobody says anything; a tokenizer without a limit names 10^30.
MAX_LENGTH = 512
# What MainNets call their table of positions.
POSITION_TABLES = frozenset({"position_embeddings", "wpe"})

# Channels → mode of PIL.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def text_limit(tokenizer: PreTrainedTokenizerBase | None, positions: int | None, max_length: int | None = None) -> int:
    """Tokens at which texts are cut. A warning says, once, where the MainNet has fewer positions than that.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): its `model_max_length` is the default, at most 512.
        positions (`int`, *optional*): of the MainNet, see [`longest_text`]; `None` where it has no table of them.
        max_length (`int`, *optional*): what was asked for.
    """
    named = getattr(tokenizer, "model_max_length", None) or MAX_LENGTH
    wanted = max_length or min(named, MAX_LENGTH)
    if positions is None or wanted <= positions:
        return wanted
    logger.warning_once(f"Texts are cut to {positions} tokens instead of {wanted}: the MainNet has no more positions.")
    return positions


def with_limit(tokenizer: PreTrainedTokenizerBase, positions: int | None) -> PreTrainedTokenizerBase:
    """A tokenizer that knows the MainNet's positions, so that `truncation=True` cuts to them: a copy where the one
    given names more.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): it is not changed.
        positions (`int`, *optional*): of the MainNet.
    """
    if positions is None or tokenizer.model_max_length <= positions:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer


def longest_text(mainnet: nn.Module) -> int | None:
    """Tokens of the longest text that a MainNet has positions for; `None` where it has no table of positions."""
    for name, module in mainnet.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[-1] in POSITION_TABLES:
            # RoBERTa counts from the padding index on.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return None


def positions_of(config: PretrainedConfig) -> int | None:
    """[`longest_text`] of a MainNet that is not loaded.

    Args:
        config (`PretrainedConfig`): of a text classifier, or of a checkpoint with SideNets.
    """
    with torch.device("meta"):
        mainnet = AutoModelForSequenceClassification.from_config(getattr(config, "mainnet_config", config))
    return longest_text(mainnet)


def num_channels_of(config: PretrainedConfig) -> int:
    """Channels of the pictures that a MainNet reads.

    Args:
        config (`PretrainedConfig`): of the MainNet, or of a checkpoint with SideNets.
    """
    return IMAGE.input_size(getattr(config, "mainnet_config", config), getattr(config, "input_size", None))[0]


def in_channels(picture: Any, num_channels: int) -> Any:
    """A picture of PIL in this number of channels, as `pipeline` converts it; anything else as it is."""
    mode = MODES.get(num_channels)
    if mode is None or not hasattr(picture, "convert") or picture.mode == mode:
        return picture
    return picture.convert(mode)
