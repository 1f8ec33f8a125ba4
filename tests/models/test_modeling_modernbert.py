# SPDX-License-Identifier: Apache-2.0
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from hf_sidenet.models import ModernBertWithSideNetForSequenceClassification

from .tester import TextTester


class TestModernBert(TextTester):
    model_class = ModernBertWithSideNetForSequenceClassification
    mainnet_class = ModernBertForSequenceClassification

    def config(self):
        return ModernBertConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
            # Windows shorter than the texts, in every second block.
            local_attention=8,
            global_attn_every_n_layers=2,
            pad_token_id=0,
        )
