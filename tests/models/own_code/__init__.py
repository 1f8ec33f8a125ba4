# SPDX-License-Identifier: Apache-2.0
"""Classifiers that transformers does not have, in files as on the Hub."""

from .configuration_toy import ToyConfig
from .modeling_toy import ToyForSequenceClassification


def toy(**kwargs) -> ToyForSequenceClassification:
    """A classifier whose `save_pretrained` writes its code, like one that was loaded with `trust_remote_code=True`."""
    ToyConfig.register_for_auto_class()
    ToyForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    return ToyForSequenceClassification(ToyConfig(**{"num_labels": 3, **kwargs})).eval()
