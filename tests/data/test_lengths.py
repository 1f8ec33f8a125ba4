# SPDX-License-Identifier: Apache-2.0
"""Texts are cut to what the MainNet has positions for, wherever they are read."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from hf_sidenet import SideNetConfig, SideNetForSequenceClassification, SideNetRunner
from hf_sidenet.data import limits as lengths
from hf_sidenet.data.limits import longest_text, positions_of, text_limit, with_limit
from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.models.modalities import TEXT

from ..models import tiny


LONG = "so very good film " * 30


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(max_position_embeddings=40), 40),
        (DistilBertConfig(max_position_embeddings=40), 40),
        # They count from the padding token on.
        (RobertaConfig(max_position_embeddings=40), 38),
        (MPNetConfig(max_position_embeddings=40), 38),
        (GPT2Config(n_positions=40), 40),
        # Rotary: there is no table that could end.
        (ModernBertConfig(max_position_embeddings=40), None),
    ],
)
def test_positions_of_a_mainnet_that_is_not_loaded(config, expected):
    assert positions_of(config) == expected
    assert positions_of(SideNetConfig(config)) == expected


@pytest.mark.parametrize(
    ("named", "positions", "asked", "expected"),
    [
        (10**30, None, None, 512),
        (10**30, 40, None, 40),
        (32, 40, None, 32),
        (64, 40, None, 40),
        (32, 40, 36, 36),
        (32, 40, 100, 40),
        (10**30, None, 1000, 1000),
    ],
)
def test_the_shortest_counts(named, positions, asked, expected):
    assert text_limit(tiny.tokenizer(model_max_length=named), positions, asked) == expected


def test_it_is_said_once():
    transformers_logging.warning_once.cache_clear()
    seen = []
    handler = tiny.Collecting(seen)
    lengths.logger.addHandler(handler)
    try:
        for _ in range(3):
            text_limit(tiny.tokenizer(), 40)
    finally:
        lengths.logger.removeHandler(handler)
    assert seen == ["Texts are truncated to 40 tokens instead of 512: the MainNet has no more positions."]


def roberta():
    fields = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 37}
    torch.manual_seed(0)
    config = RobertaConfig(**fields, vocab_size=99, num_labels=3, max_position_embeddings=40)
    return RobertaForSequenceClassification(config).eval()


@pytest.mark.parametrize("mainnet", [roberta, lambda: tiny.bert(max_position_embeddings=40)], ids=["roberta", "bert"])
def test_a_tokenizer_without_a_limit(mainnet):
    model, tokenizer = SideNetForSequenceClassification.from_mainnet(mainnet(), exit_layers=[1]), tiny.tokenizer()
    positions = longest_text(model.mainnet)
    rows = Dataset.from_dict({"text": [LONG, "good"], "label": [0, 1]})
    (ready,) = prepare_rows({"test": rows}, model.config, tokenizer, modality=TEXT).values()
    assert [len(row["input_ids"]) for row in ready.dataset] == [positions, 1]
    found = list(SideNetRunner(model, tokenizer, thresholds=1.0).predict([LONG, "good"]))
    assert [answer.error for answer in found] == [None, None]
    with torch.no_grad():
        expected = model(torch.tensor([ready.dataset[0]["input_ids"]]), thresholds=1.0).logits[0]
    torch.testing.assert_close(found[0].logits, expected, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_that_is_saved_knows_the_positions():
    tokenizer = tiny.tokenizer()
    limited = with_limit(tokenizer, 40)
    assert (limited.model_max_length, len(limited(LONG, truncation=True)["input_ids"])) == (40, 40)
    assert tokenizer.model_max_length > 10**20
    assert limited("good film") == tokenizer("good film")
    for knows in (with_limit(tokenizer, None), with_limit(limited, 40), with_limit(limited, 50)):
        assert knows in (tokenizer, limited)
