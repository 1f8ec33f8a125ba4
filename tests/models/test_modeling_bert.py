# SPDX-License-Identifier: Apache-2.0
from transformers import BertConfig, BertForSequenceClassification

from hf_sidenet.models import BertWithSideNetForSequenceClassification

from .tester import TextTester


class TestBert(TextTester):
    model_class = BertWithSideNetForSequenceClassification
    mainnet_class = BertForSequenceClassification
    compiled_exit_layers, compiled_dynamic = (1, 3), None

    def config(self):
        return BertConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
        )
