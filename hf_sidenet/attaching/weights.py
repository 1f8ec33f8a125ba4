# SPDX-License-Identifier: Apache-2.0
"""Classifiers of timm and torchvision with fine-tuned weights in a file, as training scripts leave them."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging

from ..models.errors import ArgumentError
from ..models.wrapped_network import TORCHVISION
from ..optional import require


logger = logging.get_logger(__name__)

TIMM = "timm:"
# Where training scripts put the weights, the first that is there. Of EMA weights, because they are what is evaluated.
WRAPPINGS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net",
)  # fmt: skip
# Before every name: of DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SHOWN = 5


def is_named(mainnet: Any) -> bool:
    """Return whether this names an architecture, as `"timm:resnet50"` or `"torchvision:resnet18"`."""
    return isinstance(mainnet, str) and mainnet.startswith((TIMM, TORCHVISION))


def load_named(name: str, weights: str | os.PathLike | None) -> nn.Module:
    """Build a classifier of timm or torchvision, and load its weights from a file.

    Args:
        name (`str`): `"timm:resnet50"` or `"torchvision:resnet18"`.
        weights (`str`): a safetensors file, or one of `torch.save`, of which only tensors are read.

    Raises:
        ValueError: there is no such architecture or file, or the weights do not fit; missing and unexpected ones are
            named.
        ImportError: timm or torchvision is not installed.
    """
    if weights is None:
        raise ArgumentError("weights", f"must be given with {name!r}: the file with the fine-tuned weights")
    found = read_weights(weights)
    with torch.device("meta"):
        usual = {key: each.shape for key, each in _build(name).state_dict().items()}
    # With other classes, only the last layer has other shapes.
    others = [each for key, each in found.items() if key in usual and each.ndim and each.shape != usual[key]]
    model = _build(name, num_classes=len(others[0])) if others else _build(name)
    expected = {key: tuple(each.shape) for key, each in model.state_dict().items()}
    for what, keys in (
        ("lacks", sorted(expected.keys() - found.keys())),
        ("also has", sorted(found.keys() - expected.keys())),
        (
            "has other shapes of",
            [key for key in expected if key in found and tuple(found[key].shape) != expected[key]],
        ),
    ):
        if keys:
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            raise ArgumentError(
                "weights",
                f"must be those of {name!r}, but {str(weights)!r} {what} {', '.join(keys[:SHOWN])}{more}",
            )
    model.load_state_dict(found)
    return model.eval()


def _build(name: str, **kwargs: Any) -> nn.Module:
    library, _, architecture = name.partition(":")
    if name.startswith(TIMM):
        timm = require("timm", "vision")
        known, build = timm.is_model, timm.create_model
    else:
        models = require("torchvision.models", "vision")
        known, build = models.list_models(module=models).__contains__, models.get_model
        kwargs["weights"] = None
    if not known(architecture):
        raise ArgumentError("mainnet", f"must name a classifier of {library}", name)
    return build(architecture, **kwargs)


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the weights in a file of a training script: the EMA weights if there are any, without wrappings.

    Args:
        path (`str`): a safetensors file, or one of `torch.save`, read with `weights_only=True`: no code in it is run.

    Raises:
        ValueError: there is no such file, or it has no weights, or needs code to be read.
    """
    file = Path(path)
    if not file.is_file():
        raise ArgumentError("weights", "must be a file", str(path))
    try:
        found: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ArgumentError(
            "weights",
            f"must be a file of tensors, but {str(path)!r} cannot be read without running code in it, or is damaged",
            advice="Save `model.state_dict()` alone, best with `safetensors.torch.save_file`.",
        ) from error
    path_inside = []
    while isinstance(found, Mapping) and not _are_weights(found):
        inner = next((key for key in WRAPPINGS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        path_inside.append(inner)
        found = found[inner]
    if not isinstance(found, Mapping) or not _are_weights(found):
        raise ArgumentError(
            "weights", f"must have weights, tensors by name, at the top or in one of {', '.join(WRAPPINGS)}", str(path)
        )
    if path_inside:
        logger.info("Weights are read from %r in %s.", ".".join(path_inside), path)
    weights = {str(key): each for key, each in found.items() if isinstance(each, torch.Tensor)}
    # `n_averaged` of torch's AveragedModel is no weight of the network.
    weights.pop("n_averaged", None)
    for _ in PREFIXES:
        prefix = next((each for each in PREFIXES if all(key.startswith(each) for key in weights)), None)
        if prefix is None:
            break
        weights = {key.removeprefix(prefix): each for key, each in weights.items()}
    return weights


def _are_weights(found: Mapping[Any, Any]) -> bool:
    return any(isinstance(each, torch.Tensor) and each.ndim > 0 for each in found.values())
