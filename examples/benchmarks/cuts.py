# SPDX-License-Identifier: Apache-2.0
"""Truncated MainNets: the possible cuts, their cost, and a model with the remaining weights."""

import copy
from collections.abc import Mapping, Sequence

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hf_sidenet.models.blocks import counting_flops


# Fields that a config derives from `depths`.
DERIVED = ("depths", "hidden_sizes", "stage_names", "out_features", "out_indices")


def cuts_of(config: PretrainedConfig) -> list[tuple[int, ...]]:
    """List all possible cuts.

    Args:
        config (`PretrainedConfig`): of the MainNet.

    Returns:
        `list[tuple[int, ...]]`: for a transformer, the first blocks, `(1,)` to all but one. For a CNN, the layers of
        each remaining stage: its first layers, or the first few of every stage.

    Raises:
        ValueError: the config has neither a number of blocks nor the layers of its stages.
    """
    if not _has_stages(config):
        count = getattr(config, "num_hidden_layers", None)
        if not isinstance(count, int):
            raise ValueError(
                f"a MainNet must have `num_hidden_layers` or `depths` to be cut, got {config.model_type!r}."
            )
        return [(kept,) for kept in range(1, count)]
    depths = tuple(config.depths)
    first = [(*depths[:stage], kept) for stage, depth in enumerate(depths) for kept in range(1, depth + 1)]
    few = [
        tuple(min(depth, most) for depth in depths[:stages])
        for stages in range(1, len(depths) + 1)
        for most in range(1, max(depths))
    ]
    return [cut for cut in dict.fromkeys(first + few) if cut != depths]


def cut_config(config: PretrainedConfig, keep: Sequence[int]) -> PretrainedConfig:
    """Return the config of a truncated MainNet.

    Raises:
        ValueError: `keep` is not a part of the MainNet.
    """
    whole = tuple(config.depths) if _has_stages(config) else (config.num_hidden_layers,)
    fits = 1 <= len(keep) <= len(whole) and all(1 <= kept <= have for kept, have in zip(keep, whole, strict=False))
    if not fits or tuple(keep) == whole:
        raise ValueError(
            f"`keep` must be at least 1 and a part of what the MainNet has, {list(whole)}, got {list(keep)}."
        )
    if not _has_stages(config):
        short = copy.deepcopy(config)
        short.num_hidden_layers = keep[0]
        return short
    fields = {name: value for name, value in config.to_dict().items() if name not in DERIVED}
    return type(config)(**fields, depths=list(keep), hidden_sizes=list(config.hidden_sizes[: len(keep)]))


def flops_of(model_class: type[PreTrainedModel], config: PretrainedConfig, inputs: Mapping[str, torch.Tensor]) -> int:
    """Count the FLOPs of one batch, with random weights.

    Args:
        model_class (`type[PreTrainedModel]`): of the MainNet.
        config (`PretrainedConfig`): of the MainNet or of a truncated one.
        inputs (`Mapping[str, torch.Tensor]`): a batch.
    """
    model = model_class(config).eval()
    with torch.no_grad(), counting_flops() as counter:
        model(**inputs)
    return counter.get_total_flops()


def cut(mainnet: PreTrainedModel, keep: Sequence[int]) -> tuple[PreTrainedModel, list[str]]:
    """Truncate a MainNet, keeping the weights that fit, including its head if the width does not change.

    Returns:
        `(model, new)`: the model, and the names of its random weights.

    Raises:
        ValueError: `keep` is not a part of the MainNet.
    """
    short = type(mainnet)(cut_config(mainnet.config, keep))
    own, given = short.state_dict(), mainnet.state_dict()
    fitting = {name: given[name] for name, value in own.items() if name in given and given[name].shape == value.shape}
    short.load_state_dict(fitting, strict=False)
    return short, sorted(own.keys() - fitting.keys())


def _has_stages(config: PretrainedConfig) -> bool:
    return hasattr(config, "depths") and hasattr(config, "hidden_sizes")
