# SPDX-License-Identifier: Apache-2.0
from transformers import PretrainedConfig


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, vocab_size=99, width=32, num_hidden_layers=4, pad_token_id=0, **kwargs):
        self.vocab_size, self.width, self.num_hidden_layers = vocab_size, width, num_hidden_layers
        super().__init__(pad_token_id=pad_token_id, **kwargs)
