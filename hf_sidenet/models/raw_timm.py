# SPDX-License-Identifier: Apache-2.0
"""A classifier from `timm.create_model` as a MainNet, wrapped as transformers wraps timm models."""

import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .errors import ArgumentError


def as_mainnet(mainnet: Any) -> str | os.PathLike | PreTrainedModel:
    """Return what SideNets attach to; a timm model is wrapped.

    Args:
        mainnet (`str`, `PreTrainedModel` or a model from `timm.create_model`): the classifier.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(mainnet, str | os.PathLike | PreTrainedModel):
        return mainnet
    if isinstance(mainnet, nn.Module) and isinstance(getattr(mainnet, "pretrained_cfg", None), dict):
        return wrap_timm(mainnet)
    raise ArgumentError(
        "mainnet",
        "must be a folder, a Hub id, a PreTrainedModel or a model from `timm.create_model`, got a "
        f"{type(mainnet).__name__}",
    )


def wrap_timm(model: nn.Module) -> PreTrainedModel:
    """Wrap a timm classifier, not a copy of it, with its weights, class names and image processing.

    Args:
        model (`nn.Module`): a model from `timm.create_model`.

    Raises:
        ValueError: it has no classes, or was made with arguments that it does not record.
    """
    # Only here: it imports timm.
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    given: Any = model.pretrained_cfg
    about: dict[str, Any] = dict(given)
    num_classes = getattr(model, "num_classes", 0)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ArgumentError("mainnet", "must be a classifier, with `num_classes` ≥ 2", num_classes)
    arguments: dict[str, Any] = {}
    channels = _in_channels(model, about.get("first_conv"))
    if channels is not None and about.get("input_size") is not None and channels != about["input_size"][0]:
        arguments["in_chans"] = channels
    fields: dict[str, Any] = {"num_labels": num_classes, "pretrained_cfg": about, "model_args": arguments or None}
    config = TimmWrapperConfig(architecture=about["architecture"], **fields)
    names = about.get("label_names")
    if names is not None and len(names) == num_classes:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    with torch.device("meta"):
        wrapper = TimmWrapperForImageClassification(config)
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in each.state_dict().items()}
        for each in (wrapper.timm_model, model)
    )
    differs = next((name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)), None)
    if differs is not None:
        raise ArgumentError(
            "mainnet",
            f"must be what timm makes of {about['architecture']!r} and {num_classes} classes, but {differs!r} is "
            f"{found.get(differs, 'missing')}, not {expected.get(differs, 'there')}",
            advice="Wrap it in a TimmWrapperForImageClassification whose config has the other arguments as "
            "`model_args`.",
        )
    wrapper.timm_model = model
    wrapper.config.dtype = next(model.parameters()).dtype
    return wrapper.train(model.training)


def _in_channels(model: nn.Module, first_conv: Any) -> int | None:
    """Return the number of channels that the first convolution reads; timm names it, or several."""
    name = first_conv[0] if isinstance(first_conv, list | tuple) and first_conv else first_conv
    if not isinstance(name, str):
        return None
    module = dict(model.named_modules()).get(name)
    weight = getattr(module, "weight", None)
    return None if weight is None else weight.shape[1] * getattr(module, "groups", 1)
