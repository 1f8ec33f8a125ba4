# SPDX-License-Identifier: Apache-2.0
"""Move model inputs to the model's device and dtype."""

from collections.abc import Mapping
from typing import Any

import torch

from ..models.tasks import LABEL_INPUTS


def model_inputs(batch: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the inputs of a batch on `device`, without targets, with floating-point ones (images) as `dtype`."""
    return {name: _moved(value, device, dtype) for name, value in batch.items() if name not in LABEL_INPUTS}


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)
