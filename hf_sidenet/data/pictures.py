# SPDX-License-Identifier: Apache-2.0
"""Pictures in the channels that a MainNet reads, whatever they come in: RGBA, grey, palette, CMYK, ..."""

from typing import Any

from transformers import PretrainedConfig

from ..models.modalities import IMAGE


# Channels → mode of PIL.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


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
