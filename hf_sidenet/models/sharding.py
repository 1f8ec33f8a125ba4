# SPDX-License-Identifier: Apache-2.0
"""Are parameters spread over ranks? Then every rank must run every block, or the others wait for ever."""

import torch
from torch import nn


def has_sharded_parameters(module: nn.Module) -> bool:
    """Whether FSDP (1 or 2) or DeepSpeed ZeRO-3 gathers parts of `module` during its forward."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(child, FullyShardedDataParallel) for child in module.modules()) or any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters()
    )
