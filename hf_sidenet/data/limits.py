# SPDX-License-Identifier: Apache-2.0
"""Limits of a MainNet's inputs: the number of tokens, and the channels of images."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..models.mainnet_code import is_unread, new_mainnet
from ..models.modalities import IMAGE
from ..models.transformers_private import known_classes


logger = logging.get_logger(__name__)

# Default; a tokenizer without a limit has 10^30.
MAX_LENGTH = 512
# Names of position embeddings in MainNets.
POSITION_TABLES = frozenset({"position_embeddings", "wpe"})

# Channels → PIL mode.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def text_limit(tokenizer: PreTrainedTokenizerBase | None, positions: int | None, max_length: int | None = None) -> int:
    """Return the number of tokens at which texts are truncated; warn once if the MainNet has too few positions.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): its `model_max_length` is the default, at most 512.
        positions (`int`, *optional*): positions of the MainNet, see [`longest_text`]; `None` for no limit.
        max_length (`int`, *optional*): requested limit.
    """
    named = getattr(tokenizer, "model_max_length", None) or MAX_LENGTH
    wanted = max_length or min(named, MAX_LENGTH)
    if positions is None or wanted <= positions:
        return wanted
    logger.warning_once(
        f"Texts are truncated to {positions} tokens instead of {wanted}: the MainNet has no more positions."
    )
    return positions


def with_limit(tokenizer: PreTrainedTokenizerBase, positions: int | None) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose `truncation=True` respects the MainNet's positions: a copy if its own limit is larger.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer; not changed.
        positions (`int`, *optional*): positions of the MainNet.
    """
    if positions is None or tokenizer.model_max_length <= positions:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer


def longest_text(mainnet: nn.Module) -> int | None:
    """Return the tokens of the longest text a MainNet has positions for; `None` without position embeddings."""
    for name, module in mainnet.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[-1] in POSITION_TABLES:
            # RoBERTa's positions start after the padding index.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return None


def positions_of(config: PretrainedConfig) -> int | None:
    """Return [`longest_text`] from a config alone.

    Args:
        config (`PretrainedConfig`): config of a text classifier, or of a checkpoint with SideNets.

    Returns:
        `int`, *optional*: `None` also for code that was not run, which a config alone may not start.
    """
    about, code = getattr(config, "mainnet_config", config), getattr(config, "mainnet_code", None)
    if is_unread(about) or (code is None and type(about) not in known_classes(AutoModelForSequenceClassification)):
        return None
    with torch.device("meta"):
        mainnet = new_mainnet(AutoModelForSequenceClassification, about, code)
    return longest_text(mainnet)


def num_channels_of(config: PretrainedConfig) -> int:
    """Return the channels of the images that a MainNet reads.

    Args:
        config (`PretrainedConfig`): config of the MainNet, or of a checkpoint with SideNets.
    """
    return IMAGE.input_size(getattr(config, "mainnet_config", config), getattr(config, "input_size", None))[0]


def in_channels(picture: Any, num_channels: int) -> Any:
    """Convert a PIL image to this number of channels, like `pipeline`; return anything else unchanged."""
    mode = MODES.get(num_channels)
    if mode is None or not hasattr(picture, "convert") or picture.mode == mode:
        return picture
    return picture.convert(mode)
