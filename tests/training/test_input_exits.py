# SPDX-License-Identifier: Apache-2.0
"""Training the SideNet before the first block of a text MainNet."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification

from hf_sidenet.models import BertWithSideNetForSequenceClassification
from hf_sidenet.models.input_exit import ngram_buckets
from hf_sidenet.models.modalities import BOTH, EMBEDDINGS, NGRAMS
from hf_sidenet.models.sidenet import SideNet
from hf_sidenet.training.features import Candidate
from hf_sidenet.training.heads import HeadData, HeadTraining
from hf_sidenet.training.input_exits import (
    Bags,
    NgramTraining,
    TextRows,
    has_token_embeddings,
    input_logits,
    text_sizes,
    train_text_exits,
)


VOCABULARY, CLASSES = 60, 3


def collate(rows):
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    mask = [torch.ones_like(each) for each in ids]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence(mask, batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def texts(num_rows, seed):
    """The class is told by one bigram, whose tokens alone say nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(num_rows):
        label = int(torch.randint(CLASSES, (1,), generator=generator))
        ids = torch.randint(20, VOCABULARY, (6,), generator=generator).tolist()
        rows.append(
            {"input_ids": [*ids[:3], 10 + label, 13 + label, *ids[3:], 10, 11, 12, 15, 14, 13], "labels": label}
        )
    return rows


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        num_labels=CLASSES,
    )  # fmt: skip
    return BertWithSideNetForSequenceClassification.from_mainnet(
        BertForSequenceClassification(config), exit_layers=[1]
    )


def data_of(rows):
    labels = torch.tensor([row["labels"] for row in rows])
    return HeadData({}, 4 * torch.eye(CLASSES)[labels], labels)


def trained(model, train, stopping, **kwargs):
    settings = NgramTraining(**{"num_buckets": 4096, "batch_size": 16, **kwargs})
    sizes = text_sizes(model, None, settings)
    rows = tuple(TextRows.read(each, collate, sizes, progress=False) for each in (train, stopping))
    torch.manual_seed(1)
    embedded = SideNet(16, 8, CLASSES).eval()
    data = (data_of(train), data_of(stopping))
    heads = HeadTraining(hidden_size=8)
    return embedded, rows, train_text_exits(
        model.mainnet, sizes, rows, data, embedded, heads, settings, progress=False
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6), st.data())
def test_bags(rows, data):
    values = [torch.tensor([v for row in rows for v in row], dtype=torch.long)]
    bags = Bags.of(values, [torch.tensor([len(row) for row in rows])])
    assert len(bags) == len(rows)
    which = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    found, offsets = bags.take(torch.tensor(which))
    ends = [*offsets.tolist()[1:], len(found)]
    assert [found[a:b].tolist() for a, b in zip(offsets.tolist(), ends, strict=True)] == [rows[i] for i in which]


def test_it_learns_what_no_single_token_says(model):
    train, other = texts(300, 0), texts(100, 1)
    _, _, exits = trained(model, train, texts(100, 2))
    labels = torch.tensor([row["labels"] for row in other])
    for reads in (NGRAMS, BOTH):
        logits = input_logits(exits.sidenets[Candidate(0, reads)], other, collate, progress=False)
        assert (logits.argmax(1) == labels).double().mean() > 0.9, reads
    assert exits.sizes["num_ngrams"] == exits.sidenets[Candidate(0, NGRAMS)].ngrams.num_embeddings - 1


def test_the_same_seed_gives_the_same_weights(model):
    first, again = (trained(model, texts(80, 0), texts(40, 2))[2] for _ in range(2))
    for candidate, sidenet in first.sidenets.items():
        for name, value in sidenet.state_dict().items():
            assert torch.equal(value, again.sidenets[candidate].state_dict()[name]), name


def test_the_embedding_part_is_the_head_it_was_trained_as(model):
    embedded, rows, exits = trained(model, texts(60, 0), texts(40, 2))
    with torch.no_grad():
        expected = embedded(rows[0].embeddings(model.mainnet))
        folded = input_logits(exits.sidenets[Candidate(0, EMBEDDINGS)], texts(60, 0), collate, progress=False)
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-5)


def test_it_is_attached_as_trained(model, tmp_path):
    _, _, exits = trained(model, texts(60, 0), texts(40, 2))
    rows = texts(5, 3)
    for candidate, sidenet in exits.sidenets.items():
        attached = BertWithSideNetForSequenceClassification.from_mainnet(
            model.mainnet, exit_layers=[0], pooling=[candidate.pooling], sidenet_hidden_size=8,
            input_sidenet=exits.sizes,
        )  # fmt: skip
        attached.sidenets[0].load_state_dict(sidenet.state_dict())
        attached.save_pretrained(tmp_path / candidate.name)
        loaded = BertWithSideNetForSequenceClassification.from_pretrained(tmp_path / candidate.name)
        batch = {name: value for name, value in collate(rows).items() if name != "labels"}
        with torch.no_grad():
            exit_logits = loaded(**batch, thresholds=1.0).exit_logits[:, 0]
        torch.testing.assert_close(exit_logits, input_logits(sidenet, rows, collate, progress=False))


def test_what_is_kept(model):
    """The n-grams in most rows, each counted once per row."""
    train = [{"input_ids": [20, 20, 20, 20, 21], "labels": 0}, {"input_ids": [21, 22], "labels": 1}]
    train += [{"input_ids": [23], "labels": 2}] * 3
    for kwargs, count in (({}, None), ({"min_count": 2}, 2), ({"max_ngrams": 1}, 1)):
        _, _, exits = trained(model, train, texts(10, 2), **kwargs)
        sidenet = exits.sidenets[Candidate(0, NGRAMS)]
        frequent = Counter()
        for row in train:
            ids = torch.tensor([row["input_ids"]])
            buckets = ngram_buckets(ids, torch.ones_like(ids, dtype=torch.bool), 4096)[0].tolist()
            frequent.update({each for each in buckets if each < 4096})
        expected = {each for each, times in frequent.items() if times >= kwargs.get("min_count", 1)}
        if "max_ngrams" in kwargs:
            expected = {frequent.most_common(1)[0][0]}
        assert set(sidenet.slots.nonzero().squeeze(1).tolist()) == expected
        assert count in (None, len(expected))
        slots = sidenet.slots[sidenet.slots > 0].tolist()
        assert all(b - a == 1 for a, b in pairwise(sorted(slots)))


def test_what_is_refused(model):
    with pytest.raises(ValueError, match=r"`min_count` must be reached by an n-gram of the training rows, got 99"):
        trained(model, texts(10, 0), texts(10, 2), min_count=99)
    with pytest.raises(ValueError, match="`max_ngrams` must be > 0, got 0"):
        NgramTraining(max_ngrams=0)


def test_special_tokens_of_the_tokenizer(model):
    class Processor:
        all_special_ids = (1, 4, 7)
        unk_token_id = 4

    assert text_sizes(model, Processor(), NgramTraining())["special_ids"] == [0, 1, 7]
    assert text_sizes(model, None, NgramTraining())["special_ids"] == [0]
    assert has_token_embeddings(model.mainnet)
