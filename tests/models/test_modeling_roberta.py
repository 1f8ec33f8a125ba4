# SPDX-License-Identifier: Apache-2.0
from transformers import RobertaConfig, RobertaForSequenceClassification

from hf_sidenet.models import RobertaWithSideNetForSequenceClassification

from .tester import TextTester


class TestRoberta(TextTester):
    model_class = RobertaWithSideNetForSequenceClassification
    mainnet_class = RobertaForSequenceClassification

    def config(self):
        return RobertaConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
        )
