# SPDX-License-Identifier: Apache-2.0
from transformers import MPNetConfig, MPNetForSequenceClassification

from hf_sidenet.models import MPNetWithSideNetForSequenceClassification

from .tester import TextTester


class TestMPNet(TextTester):
    model_class = MPNetWithSideNetForSequenceClassification
    mainnet_class = MPNetForSequenceClassification

    def config(self):
        return MPNetConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
        )
