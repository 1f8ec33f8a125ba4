# SPDX-License-Identifier: Apache-2.0
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from hf_sidenet.models import SideNetForSequenceClassification

from .tester import TextTester


class TestGPT2(TextTester):
    model_class = SideNetForSequenceClassification
    mainnet_class = GPT2ForSequenceClassification

    def config(self):
        return GPT2Config(
            vocab_size=99, n_embd=32, n_layer=4, n_head=2, n_inner=37, n_positions=64, pad_token_id=0, num_labels=3
        )


class TestLlama(TextTester):
    model_class = SideNetForSequenceClassification
    mainnet_class = LlamaForSequenceClassification

    def config(self):
        return LlamaConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            pad_token_id=0,
            num_labels=3,
        )
