# SPDX-License-Identifier: Apache-2.0
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_toy import ToyConfig
from .toy_parts import ToyBlock


class ToyForSequenceClassification(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(ToyBlock(config.width) for _ in range(config.num_hidden_layers))
        self.classifier = nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, return_dict=None):
        x = self.embeddings(input_ids)
        mask = (input_ids >= 0 if attention_mask is None else attention_mask).unsqueeze(-1).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        logits = self.classifier((x * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
