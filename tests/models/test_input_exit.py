# SPDX-License-Identifier: Apache-2.0
"""SideNets before the first block: what every SideNet must do, and what these read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig

from hf_sidenet.models import BertWithSideNetForSequenceClassification, SideNetConfig
from hf_sidenet.models.blocks import counting_flops
from hf_sidenet.models.input_exit import (
    MIXER,
    MODULUS,
    MULTIPLIER,
    SEGMENT,
    ImageInputSideNet,
    Residual,
    TextInputSideNet,
    ngram_buckets,
)

from . import (
    test_modeling_bert,
    test_modeling_deberta_v2,
    test_modeling_decoders,
    test_modeling_resnet,
    test_modeling_timm,
    test_modeling_vit,
)


class FromInput:
    """The tests of an architecture, with a SideNet before its first block."""

    exit_layers = ([0], [0, 1], [0, 3], [0, 1, 2, 3])
    compiled_exit_layers = (0, 1)

    def model(self, exit_layers=(0, 2), attention="eager", **kwargs):
        return super().model(exit_layers, attention, **kwargs)


class TestBertFromInput(FromInput, test_modeling_bert.TestBert):
    pass


@pytest.mark.medium
class TestGPT2FromInput(FromInput, test_modeling_decoders.TestGPT2):
    pass


@pytest.mark.medium
class TestDebertaV2FromInput(FromInput, test_modeling_deberta_v2.TestDebertaV2):
    pass


@pytest.mark.medium
class TestResNetFromInput(FromInput, test_modeling_resnet.TestResNet):
    pass


@pytest.mark.medium
class TestTimmResNetFromInput(FromInput, test_modeling_timm.TestTimmResNet):
    pass


@pytest.mark.medium
class TestViTFromInput(FromInput, test_modeling_vit.TestViT):
    pass


PAD, CLS, SEP = 0, 1, 2
SIZES = {"num_buckets": 512, "num_ngrams": 512, "rank": 3, "vocab_size": 40, "special_ids": [PAD, CLS, SEP]}


def text_sidenet(reads=("ngrams", "embeddings"), num_outputs=3, **sizes):
    torch.manual_seed(0)
    sidenet = TextInputSideNet(num_outputs, 8, reads, **{**SIZES, **sizes}).eval()
    with torch.no_grad():
        for parameter in sidenet.parameters():
            parameter.normal_()
        if sidenet.ngrams is not None:
            sidenet.ngrams.weight[0] = 0
    return sidenet


def bucket(*tokens):
    key = 0
    for token in tokens:
        key = key * MULTIPLIER + token
    return key % MODULUS * MIXER % MODULUS % SIZES["num_buckets"]


def ngrams_of(ids):
    """Buckets of the n-grams of one text or pair, in plain Python."""
    found, runs, inside = [], 0, False
    for i, token in enumerate(ids):
        if token in SIZES["special_ids"]:
            inside = False
            continue
        runs += not inside
        coded = token + 1 + SEGMENT * min(runs - 1, 1)
        found.append(bucket(coded))
        if inside:
            found.append(bucket(ids[i - 1] + 1 + SEGMENT * min(runs - 1, 1), coded))
        inside = True
    return sorted(found)


IDS = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=9), min_size=1, max_size=5)


def padded(rows, left=False):
    length = max(map(len, rows)) + 2
    fill = [[PAD] * (length - len(row)) for row in rows]
    ids = torch.tensor([more + row if left else row + more for row, more in zip(rows, fill, strict=True)])
    mask = [[0] * len(more) + [1] * len(row) if left else [1] * len(row) + [0] * len(more)
            for row, more in zip(rows, fill, strict=True)]  # fmt: skip
    return {"input_ids": ids, "attention_mask": torch.tensor(mask)}


@settings(deadline=None)
@given(IDS)
def test_unigrams_and_bigrams_of_each_text(rows):
    sidenet, inputs = text_sidenet(), padded(rows)
    input_ids, ordinary = sidenet.ordinary(inputs)
    buckets = ngram_buckets(input_ids, ordinary, sidenet.num_buckets)
    for row, found in zip(rows, buckets.tolist(), strict=True):
        assert sorted(each for each in found if each < sidenet.num_buckets) == ngrams_of(row)


@settings(deadline=None)
@given(IDS, st.sampled_from([("ngrams",), ("embeddings",), ("ngrams", "embeddings")]))
def test_padding_on_either_side_changes_nothing(rows, reads):
    sidenet = text_sidenet(reads)
    with torch.no_grad():
        right, left = sidenet(padded(rows)), sidenet(padded(rows, left=True))
        alone = torch.cat([sidenet({"input_ids": torch.tensor([row])}) for row in rows])
    torch.testing.assert_close(right, left, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(right, alone, rtol=1e-5, atol=1e-5)


def test_the_second_text_of_a_pair_is_read_as_such():
    sidenet = text_sidenet(("ngrams",))
    a, b = [5, 6], [7]
    for pair in ([CLS, *a, SEP, *b, SEP], [*a, SEP, *b], [CLS, *a, SEP, SEP, *b, SEP]):
        swapped = torch.tensor([[CLS, *b, SEP, *a, SEP]])
        with torch.no_grad():
            logits = sidenet({"input_ids": torch.tensor([pair])})
            assert not torch.allclose(logits, sidenet({"input_ids": swapped}))
            torch.testing.assert_close(logits, sidenet({"input_ids": torch.tensor([[CLS, *a, SEP, *b, SEP]])}))


def test_tokens_that_do_not_count():
    """Special tokens say nothing, nor do tokens that the vocabulary got later; a text of them alone has an answer."""
    sidenet = text_sidenet()
    with torch.no_grad():
        known = sidenet({"input_ids": torch.tensor([[CLS, 5, SEP]])})
        torch.testing.assert_close(known, sidenet({"input_ids": torch.tensor([[5]])}))
        embeddings = text_sidenet(("embeddings",))
        same = [embeddings({"input_ids": torch.tensor([ids])}) for ids in ([5], [5, 45])]
        torch.testing.assert_close(*same)
        assert sidenet({"input_ids": torch.tensor([[CLS, SEP]])}).isfinite().all()


def test_many_classes_have_a_low_rank():
    sidenet = text_sidenet(("ngrams",), num_outputs=50, rank=4)
    assert sidenet.ngrams.weight.shape == (513, 4)
    assert sidenet({"input_ids": torch.tensor([[5, 6]])}).shape == (1, 50)


def test_what_it_cannot_read():
    sidenet = text_sidenet()
    with pytest.raises(ValueError, match="`input_ids` must be given: the SideNet before the first block reads token"):
        sidenet({"inputs_embeds": torch.zeros(1, 2, 8)})
    inputs = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, sequence\)"):
        sidenet(inputs)


def small_bert():
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
    return BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": ["mean", "mean"]}, "`pooling` must be 'auto' or one of .* before the first block, got 'mean'"),
        ({"pooling": ["auto", "ngrams"]}, "`pooling` must be one of .* after a block, got 'ngrams'"),
        ({"pooling": ["pixels", "mean"]}, "`pooling` must be 'auto' or one of"),
        ({"input_sidenet": {"width": 3}}, "`input_sidenet` must have the fields .*num_buckets.*, got .*width"),
        ({"input_sidenet": {**SIZES, "num_buckets": 2**40}}, "`input_sidenet` must have integers from 1 to"),
        ({"input_sidenet": {**SIZES, "rank": 2**12}}, "`input_sidenet` must have integers from 1 to .* got rank=4096"),
        ({"input_sidenet": {**SIZES, "num_ngrams": 0}}, "`input_sidenet` must have integers from 1 to"),
        ({"input_sidenet": 3}, "`input_sidenet` must be a dict or None, got 3"),
        ({"exit_layers": [0, 0]}, "strictly rising integers from 0"),
        ({"exit_layers": [-1]}, "strictly rising integers from 0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BertWithSideNetForSequenceClassification.from_mainnet(small_bert(), **{"exit_layers": [0, 2], **arguments})


def test_sizes_are_recorded():
    model = BertWithSideNetForSequenceClassification.from_mainnet(small_bert(), exit_layers=[0])
    assert model.config.input_sidenet["vocab_size"] == 40
    assert model.config.input_sidenet["special_ids"] == [0]
    assert SideNetConfig.from_dict(model.config.to_dict()).input_sidenet == model.config.input_sidenet
    later = BertWithSideNetForSequenceClassification.from_mainnet(small_bert(), exit_layers=[2])
    assert later.config.input_sidenet is None
    later.add_exits([0], pooling="ngrams")
    assert later.config.exit_layers == [0, 2]
    assert later.config.pooling == ["ngrams", "auto"]
    assert later.config.input_sidenet["rank"] == 2


def test_a_config_says_what_an_image_has():
    config = SideNetConfig(ResNetConfig(num_channels=1), exit_layers=[0, 1], pooling=["pixels", "gap"])
    assert config.input_sidenet is None
    assert config.num_exits == 3


def test_what_the_net_on_pixels_costs():
    """8 × 8 pixels: maps of 4 × 4, 4 × 4, 2 × 2 and 1 × 1."""
    sidenet = ImageInputSideNet(5, num_channels=3, width=4, size=8).eval()
    products = [
        9 * 3 * 4 * 16,
        2 * 9 * 4 * 4 * 16,
        (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) * 4,
        9 * 8 * 16 + 9 * 16 * 16 + 8 * 16,
        16 * 5,
    ]
    # Larger images are averaged down first.
    for side in (8, 24):
        with torch.no_grad(), counting_flops() as counter:
            assert sidenet({"pixel_values": torch.zeros(1, 3, side, side)}).shape == (1, 5)
        assert counter.get_total_flops() == 2 * sum(products)


@pytest.mark.parametrize(("after", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_residual_block_adds_to_its_input(after, stride):
    block = Residual(4, after, stride).eval()
    with torch.no_grad():
        # A scale of 0 in the last BatchNorm leaves the shortcut alone.
        block.body[-1].weight.zero_()
        hidden = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        result = block(hidden)
        assert torch.equal(result, block.shortcut(hidden).relu())
        assert result.shape == (2, after, *(2 * [-(-5 // stride)]))
        if (after, stride) == (4, 1):
            assert torch.equal(result, hidden.relu())
