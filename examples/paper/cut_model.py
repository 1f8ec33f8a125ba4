# SPDX-License-Identifier: Apache-2.0
"""The rival that needs no exits: the first blocks of a MainNet with the SideNet's head."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_sidenet.models.sidenet import SideNet, pool


class CutMainNet(PreTrainedModel):
    """The first blocks of an encoder, the mean of their unmasked tokens, and a head shaped like a SideNet."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig, encoder: PreTrainedModel | None = None, hidden_size: int = 32):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config) if encoder is None else encoder
        if getattr(self.encoder, "pooler", None) is not None:
            # It is unused, but would count as parameters.
            self.encoder.pooler = None
        self.sidenets = nn.ModuleList([SideNet(config.hidden_size, hidden_size, config.num_labels)])
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        hidden = self.encoder(input_ids, attention_mask, token_type_ids=token_type_ids).last_hidden_state
        logits = self.sidenets[0](pool(hidden, "mean", attention_mask))
        return SequenceClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


def load_cut(folder: Path) -> CutMainNet:
    """Load a model trained by this script."""
    config = AutoConfig.from_pretrained(folder)
    return CutMainNet.from_pretrained(folder, config=config, dtype=torch.float32)
