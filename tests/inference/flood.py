# SPDX-License-Identifier: Apache-2.0
"""Rows of every length, some of which cannot be answered, and the answers one by one."""

import torch

from hf_sidenet.inference.rows import Row


BAD = (
    {"input_ids": []},
    {"input_ids": [5, 999_999]},
    {"input_ids": [5, -1]},
    {"input_ids": [1.5, 2.5]},
    {"input_ids": [[5, 6], [7, 8]]},
    {"input_ids": list(range(3, 99)) * 6},
    {"input_ids": [5, 6], "attention_mask": [1]},
    {"input_ids": [5, 6], "pixel_values": [1.0]},
    {"attention_mask": [1, 1]},
    {},
    "a text without a processor",
    None,
)


def token_rows(count, longest=512, seed=0, bad_every=0):
    """Dicts of token ids of lengths 1 to `longest`; every `bad_every`th is one of [`BAD`]."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(3, 99, (n,), generator=generator).tolist()} for n in lengths]
    if bad_every:
        for number, place in enumerate(range(bad_every - 1, count, bad_every)):
            rows[place] = BAD[number % len(BAD)]
    return rows


def is_bad(row):
    return any(row is bad for bad in BAD)


@torch.no_grad()
def one_by_one(model, rows, thresholds):
    """The model's own answer to each good row alone: (exit index, logits); `None` for the bad."""
    answers = []
    for i, row in enumerate(rows):
        if is_bad(row):
            answers.append(None)
            continue
        theta = thresholds[i] if isinstance(thresholds, list) else thresholds
        output = model(input_ids=torch.tensor([row["input_ids"]]), thresholds=list(theta))
        answers.append((output.exit_index.item(), output.logits[0]))
    return answers


def assert_answers(predictions, expected, tolerance=1e-5):
    """Every good row has the answer of the model, in order, every bad row an error. Rows that are as sure as θ to the
    last bits may go either way; none of these is."""
    assert len(predictions) == len(expected)
    scale = max(answer[1].abs().max() for answer in expected if answer is not None)
    for prediction, answer in zip(predictions, expected, strict=True):
        if answer is None:
            assert prediction.error is not None
            assert prediction.label is prediction.logits is prediction.exit_index is None
            continue
        assert prediction.error is None
        assert prediction.exit_index == answer[0]
        assert (prediction.logits - answer[1]).abs().max() <= tolerance * scale
        assert prediction.label_id == int(answer[1].argmax())
        torch.testing.assert_close(prediction.confidence, answer[1].softmax(-1).max().item(), atol=1e-5, rtol=0)


def text_row(place, length, thresholds=(0.5, 0.5), value=5):
    ids = torch.full((length,), value)
    return Row(place, {"attention_mask": torch.ones_like(ids), "input_ids": ids}, length, thresholds)
