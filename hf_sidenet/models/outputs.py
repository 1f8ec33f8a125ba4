# SPDX-License-Identifier: Apache-2.0
"""What a MainNet with SideNets returns."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SideNetOutput(ModelOutput):
    """Output of a MainNet with SideNets. Every field has one entry per row, in the order of the batch.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is given):
            In training and with exits off, `L_M + Σ α_i · L_Si` over the exits computed; with exits on, the
            cross-entropy of `logits`.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Logits of the exit that answered.
        exit_index (`torch.LongTensor` of shape `(batch_size,)`):
            Which exit answered: 0 for the first SideNet, `len(exit_layers)` for the MainNet.
        exit_logits (`torch.FloatTensor` of shape `(batch_size, num_exits, num_labels)`):
            Raw logits of every exit a row reached (no temperature), NaN beyond `exit_index`. NaN at or before it
            means that this exit's own numbers were broken.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): the MainNet's; only with exits off.
        attentions (`tuple[torch.FloatTensor]`, *optional*): the MainNet's; only with exits off.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    exit_index: torch.LongTensor | None = None
    exit_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
