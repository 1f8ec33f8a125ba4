# SPDX-License-Identifier: Apache-2.0
"""Splits of which some rows have no label are refused: were these dropped, others would take their places."""

import pytest

from hf_sidenet.attaching.checkpoint import evaluate_checkpoint, recalibrate

from .cases import prepared


@pytest.mark.parametrize("target", ["accuracy_drop<=0.2", "disagreement<=0.2"])
def test_some_labels_are_missing(checkpoint, target):
    model, tokenizer = checkpoint
    rows = prepared(tokenizer, [0, 1, -100, 1] * 60)
    why = "for accuracy_drop<=0.2" if target.startswith("accuracy") else "in every row or in none"
    with pytest.raises(ValueError, match=f"`validation` must have labels {why}, but 60 of 240 rows have none"):
        recalibrate(model, tokenizer, rows, target=target, progress=False)


def test_no_labels_and_none_needed(checkpoint):
    model, tokenizer = checkpoint
    rows = prepared(tokenizer, [-100] * 240)
    found = recalibrate(model, tokenizer, rows, target="disagreement<=0.2", progress=False)
    assert found.certification["num_rows"] == 180
    assert found.certification["recalls"] == []
    with pytest.raises(ValueError, match=r"`validation` must have labels for selective_error<=0.2, but 240 of 240"):
        recalibrate(model, tokenizer, rows, target="selective_error<=0.2", progress=False)
    with pytest.raises(ValueError, match="`test` must have labels, got none"):
        evaluate_checkpoint(model, tokenizer, rows, progress=False)
