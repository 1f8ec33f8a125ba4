# SPDX-License-Identifier: Apache-2.0
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from hf_sidenet.models import DistilBertWithSideNetForSequenceClassification

from .tester import TextTester


class TestDistilBert(TextTester):
    model_class = DistilBertWithSideNetForSequenceClassification
    mainnet_class = DistilBertForSequenceClassification

    def config(self):
        return DistilBertConfig(
            vocab_size=99, dim=32, n_layers=4, n_heads=2, hidden_dim=37, max_position_embeddings=64, num_labels=3
        )
