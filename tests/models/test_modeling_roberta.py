# SPDX-License-Identifier: Apache-2.0
from transformers import (
    CamembertConfig,
    CamembertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from hf_sidenet.models import (
    CamembertWithSideNetForSequenceClassification,
    RobertaWithSideNetForSequenceClassification,
    XLMRobertaWithSideNetForSequenceClassification,
)

from .tester import TextTester


class TestRoberta(TextTester):
    model_class = RobertaWithSideNetForSequenceClassification
    mainnet_class = RobertaForSequenceClassification
    config_class = RobertaConfig

    def config(self):
        return self.config_class(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
        )


class TestXLMRoberta(TestRoberta):
    model_class = XLMRobertaWithSideNetForSequenceClassification
    mainnet_class = XLMRobertaForSequenceClassification
    config_class = XLMRobertaConfig


class TestCamembert(TestRoberta):
    model_class = CamembertWithSideNetForSequenceClassification
    mainnet_class = CamembertForSequenceClassification
    config_class = CamembertConfig
