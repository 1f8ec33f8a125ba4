# SPDX-License-Identifier: Apache-2.0
"""Rows of a data set, chosen at random, in two orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.rows import by_length, cut, read_rows
from hf_sidenet.inference import Stages
from hf_sidenet.inference.runner import LOOKAHEAD

from .cases import rows_of


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=120)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 12))
def test_both_orders_have_the_same_rows(lengths, batch_size, max_batches):
    rows = rows_of(lengths)
    batches = cut(rows, batch_size, max_batches)
    taken = rows[: batch_size * max_batches]
    assert [row for batch in batches.mixed for row in batch] == taken
    assert {row.place for batch in batches.bucketed for row in batch} == {row.place for row in taken}
    assert list(map(len, batches.mixed)) == list(map(len, batches.bucketed))
    assert all(len(batch) == batch_size for batch in batches.mixed[:-1])
    assert len(batches.mixed) <= max_batches
    assert batches.of(True) is batches.bucketed
    assert batches.of(False) is batches.mixed


@given(LENGTHS, st.integers(1, 40))
def test_each_window_is_sorted_up_and_down_by_turns(lengths, window):
    rows = rows_of(lengths)
    ordered = by_length(rows, window)
    for number, start in enumerate(range(0, len(rows), window)):
        part = ordered[start : start + window]
        assert {row.place for row in part} == {row.place for row in rows[start : start + window]}
        assert [row.length for row in part] == sorted((row.length for row in part), reverse=number % 2 == 1)


def test_the_window_is_the_runners():
    lengths = [2 * LOOKAHEAD - i for i in range(2 * LOOKAHEAD + 1)]
    ordered = [row.length for batch in cut(rows_of(lengths), 2).bucketed for row in batch]
    assert ordered == [*sorted(lengths[:-1]), lengths[-1]]


def test_rows_are_chosen_at_random(text_checkpoint):
    model, _ = load_checkpoint(text_checkpoint)
    data = [{"input_ids": [1000 + i] * (3 + i % 5), "labels": i % 2} for i in range(50)]

    class Rows:
        dataset = data

        def __len__(self):
            return len(data)

    rows, labels = read_rows(Stages(model), Rows(), 20, seed=1)
    assert [row.place for row in rows] == list(range(20))
    numbers = [int(row.inputs["input_ids"][0]) - 1000 for row in rows]
    assert len(set(numbers)) == 20
    assert numbers != sorted(numbers)
    assert labels == [number % 2 for number in numbers]
    assert [int(row.inputs["input_ids"][0]) for row in read_rows(Stages(model), Rows(), 20, seed=2)[0]] != numbers
    assert len(read_rows(Stages(model), Rows(), 1000, seed=1)[0]) == 50
    data[7]["labels"] = -100
    with pytest.raises(ValueError, match="every row must have a label"):
        read_rows(Stages(model), Rows(), 1000, seed=1)
    data[7] = {"input_ids": [], "labels": 1}
    with pytest.raises(ValueError, match="a text must have 1 to 512 tokens, got 0"):
        read_rows(Stages(model), Rows(), 1000, seed=1)
