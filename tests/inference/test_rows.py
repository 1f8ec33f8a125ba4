# SPDX-License-Identifier: Apache-2.0
"""Batches of rows: what is padded and trimmed in them, and which rows stand for all."""

import pytest
import torch

from hf_sidenet.inference.engine import by_kind
from hf_sidenet.inference.rows import Row, collate, evenly_spaced, merge, pack, trim, unpack


CPU = torch.device("cpu")


def row(place, length, entities=2, language=7):
    """A row with an input of every nature: per token, of its own length, and one number."""
    inputs = {
        "attention_mask": torch.ones(length, dtype=torch.long),
        "bbox": torch.full((length, 4), 10 + place),
        "entity_ids": torch.full((entities,), 20 + place),
        "input_ids": torch.full((length,), 30 + place),
        "lang_ids": torch.tensor(language),
    }
    return Row(place, inputs, length, (0.5,))


def test_only_rows_alike_share_a_batch():
    rows = [row(0, 3), row(1, 5), row(2, 2), row(3, 4, entities=4), row(4, 9, entities=3)]
    # Rows 2 and 3 have as many entities as tokens, by chance.
    assert [[each.place for each in alike] for alike in by_kind(rows)] == [[0, 1, 2], [3], [4]]
    unheard = [
        Row(i, {"input_ids": torch.ones(n), "unheard_of": torch.ones(m)}, n, ())
        for i, (n, m) in enumerate([(3, 3), (5, 5), (5, 3), (4, 3)])
    ]
    assert [[each.place for each in alike] for alike in by_kind(unheard)] == [[0, 1], [2, 3]]


def test_only_what_follows_the_tokens_is_padded_and_trimmed():
    batch = collate([row(0, 3), row(1, 5)], {"input_ids": 1}, CPU)
    assert batch.inputs["input_ids"].tolist() == [[30, 30, 30, 1, 1], [31] * 5]
    assert batch.inputs["bbox"][0, :, 0].tolist() == [10, 10, 10, 0, 0]
    assert batch.inputs["entity_ids"].tolist() == [[20, 20], [21, 21]]
    assert batch.inputs["lang_ids"].tolist() == [7, 7]
    batch.hidden = torch.arange(2 * 5 * 2.0).view(2, 5, 2)
    short = trim(batch.select([0]))
    assert {name: list(value.shape) for name, value in short.inputs.items()} == {
        "attention_mask": [1, 3],
        "bbox": [1, 3, 4],
        "entity_ids": [1, 2],
        "input_ids": [1, 3],
        "lang_ids": [1],
    }
    other = collate([row(2, 2)], {}, CPU)
    other.hidden = torch.ones(1, 2, 2)
    merged = merge([short, other], {"input_ids": 1})
    assert merged.inputs["input_ids"].tolist() == [[30, 30, 30], [32, 32, 1]]
    assert merged.inputs["bbox"][1, :, 0].tolist() == [12, 12, 0]
    assert merged.inputs["entity_ids"].tolist() == [[20, 20], [22, 22]]
    assert merged.inputs["lang_ids"].tolist() == [7, 7]
    assert merged.hidden[1, 2].tolist() == [0, 0]


def test_packed_rows_come_back():
    # Three entities, as many as tokens of the padded batch.
    batch = collate([row(0, 2, entities=3), row(1, 3, entities=3)], {}, CPU)
    batch.hidden = torch.randn(2, 3, 4)
    again = unpack(pack(batch), CPU)
    assert [each.kind for each in again.rows] == [each.kind for each in batch.rows]
    for ours, theirs in zip(again.rows, batch.rows, strict=True):
        for name, value in theirs.inputs.items():
            assert torch.equal(ours.inputs[name], value), name


def test_images_share_one_row_only_without_masks():
    pixels = torch.randn(3, 1, 2, 2)
    masks = torch.tensor([[1, 1], [1, 0], [0, 1]])
    for names in (["pixel_values"], ["attention_mask", "pixel_values"]):
        given = {"pixel_values": pixels, "attention_mask": masks}
        rows = [Row(i, {name: given[name][i] for name in names}, 0, ()) for i in range(3)]
        batch = collate(rows, {}, CPU)
        batch.hidden = torch.randn(3, 4)
        assert batch.one_for_all == (len(names) == 1)
        later = merge([batch.select([2]), batch.select([0])], {})
        if not batch.one_for_all:
            assert later.inputs["attention_mask"].tolist() == [[0, 1], [1, 1]]
            assert len(unpack(pack(later), CPU).inputs["pixel_values"]) == 2


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (10, 5, [0, 2, 4, 6, 8]),
        (7, 4, [0, 1, 3, 5]),
        (5, 4, [0, 1, 2, 3]),
        (4, 4, [0, 1, 2, 3]),
        (3, 4, [0, 1, 2]),
        (1, 64, [0]),
        (0, 4, []),
    ],
)
def test_evenly_spaced(total, count, expected):
    assert evenly_spaced(total, count) == expected


@pytest.mark.parametrize("total", [96, 512, 600, 1023, 1024, 5000])
def test_no_part_is_left_out(total):
    for count in (64, 512):
        found = evenly_spaced(total, count)
        assert len(set(found)) == len(found) == min(count, total)
        steps = [b - a for a, b in zip(found, [*found[1:], total], strict=True)]
        assert max(steps) - min(steps) <= 1
