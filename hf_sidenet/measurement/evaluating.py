# SPDX-License-Identifier: Apache-2.0
"""Running a model to measure it: in evaluation mode, on inputs that are where the model is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has its own former mode again."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def model_inputs(batch: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """The inputs of a batch on `device`, without `labels`, floating-point ones (images) as `dtype`."""
    return {name: _moved(value, device, dtype) for name, value in batch.items() if name != "labels"}


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)
