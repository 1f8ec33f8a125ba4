# SPDX-License-Identifier: Apache-2.0
from transformers import ElectraConfig, ElectraForSequenceClassification

from hf_sidenet.models import ElectraWithSideNetForSequenceClassification

from .tester import TextTester


class TestElectra(TextTester):
    model_class = ElectraWithSideNetForSequenceClassification
    mainnet_class = ElectraForSequenceClassification

    def config(self):
        return ElectraConfig(
            vocab_size=99,
            embedding_size=16,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
        )
