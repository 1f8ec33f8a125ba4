# SPDX-License-Identifier: Apache-2.0
"""How often rows have certified is counted by what they say: in another order, or without some, they are the same."""

import random

import pytest

from hf_sidenet.attaching.checkpoint import recalibrate

from .cases import answered, texts


@pytest.mark.medium
def test_another_order_and_fewer_rows_are_no_fresh_ones(checkpoint):
    model, tokenizer = checkpoint
    rows = texts()
    shuffled = random.Random(1).sample(rows, len(rows))
    louder = [text.upper() + "!" for text in rows]
    others = [f"not {text}" for text in rows]
    # Signs and capitals make no other row, so that it is the first look again.
    for each, count in ((rows, 1), (shuffled, 2), (rows[5:], 3), (louder, 3), (others, 1)):
        found = recalibrate(model, tokenizer, answered(checkpoint, each), target="disagreement<=0.3", progress=False)
        assert found.verdict == "attach"
        assert found.config.calibration["num_calibrations"] == count


def test_a_damaged_count_is_said(checkpoint, tmp_path):
    model, tokenizer = checkpoint
    rows = answered(checkpoint, texts())
    recalibrate(model, tokenizer, rows, target="disagreement<=0.3", progress=False)
    (path,) = (tmp_path / "cache" / "looks").glob("*.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match="must record how often rows have certified, but is damaged"):
        recalibrate(model, tokenizer, rows, target="disagreement<=0.3", progress=False)
