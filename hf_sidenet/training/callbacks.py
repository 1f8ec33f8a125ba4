# SPDX-License-Identifier: Apache-2.0
"""Callbacks for the stock `Trainer`."""

import torch
from transformers import TrainerCallback


class SameStatisticsCallback(TrainerCallback):
    """Give every rank rank 0's buffers, BatchNorm statistics among them, after each step. For DDP and FSDP.

    DDP copies them before each forward of training, but not for the `Trainer`'s evaluation, and FSDP never does:
    without this callback the other ranks evaluate a slightly other model than the one that is saved. With one process
    it does nothing.
    """

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
