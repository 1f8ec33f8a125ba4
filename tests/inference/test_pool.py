# SPDX-License-Identifier: Apache-2.0
"""Rows that wait: none is lost, none is doubled, and only padding is cut."""

import math
from itertools import combinations, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.inference.pool import Pool, cut_by_length
from hf_sidenet.inference.rows import collate

from .flood import text_row


CPU = torch.device("cpu")


def waiting(lengths, first=0):
    """A batch after stage 0, whose x_c says which token of which row it is; padding is NaN."""
    rows = [text_row(first + i, length) for i, length in enumerate(lengths)]
    batch = collate(rows, {}, CPU)
    hidden = torch.full((len(rows), max(lengths), 2), math.nan)
    for i, row in enumerate(rows):
        hidden[i, : row.length, 0] = row.place
        hidden[i, : row.length, 1] = torch.arange(row.length).float()
    batch.hidden = hidden
    return batch


def assert_whole(batch):
    for i, row in enumerate(batch.rows):
        assert batch.hidden[i, : row.length, 0].tolist() == [row.place] * row.length
        assert batch.hidden[i, : row.length, 1].tolist() == list(range(row.length))
        assert batch.inputs["attention_mask"][i].tolist() == [1] * row.length + [0] * (
            batch.hidden.shape[1] - row.length
        )
    assert batch.hidden.shape[1] >= max(row.length for row in batch.rows)


@given(
    batches=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    size=st.integers(1, 12),
    more=st.integers(0, 9),
)
def test_every_row_comes_out_once_with_its_own_tokens(batches, size, more):
    pool, taken, place = Pool(size, size + more, {}), [], 0
    for now, lengths in enumerate(batches):
        pool.add(waiting(lengths, place), float(now))
        place += len(lengths)
        full = pool.take_full()
        assert all(len(batch.rows) <= 2 * size or size + more == 1 for batch in full)
        taken += full
    assert len(pool) == place - sum(len(batch.rows) for batch in taken) < size + more
    taken += pool.take_due(math.inf)
    assert len(pool) == 0
    assert pool.since == math.inf
    for batch in taken:
        assert_whole(batch)
    assert sorted(row.place for batch in taken for row in batch.rows) == list(range(place))


def test_many_rows_are_cut_into_batches_of_similar_length():
    pool = Pool(2, 4, {})
    pool.add(waiting([1, 200, 1, 200]), 0.0)
    short, long = pool.take_full()
    assert [row.length for row in short.rows] == [1, 1]
    assert [row.length for row in long.rows] == [200, 200]
    assert short.hidden.shape[1] == 1


def test_rows_that_do_not_wait_stay_one_batch():
    pool = Pool(1, 1, {})
    pool.add(waiting([1, 200, 1, 200]), 0.0)
    (batch,) = pool.take_full()
    assert [row.length for row in batch.rows] == [1, 200, 1, 200]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8).map(sorted),
    most=st.integers(1, 9),
    call_tokens=st.integers(0, 60),
)
def test_no_other_cut_costs_less(lengths, most, call_tokens):
    def cost(ends):
        parts = [lengths[start:end] for start, end in pairwise([0, *ends])]
        assert all(parts)
        if max(map(len, parts)) > most:
            return math.inf
        return sum(call_tokens + len(part) * max(part) for part in parts)

    inner = range(1, len(lengths))
    every = [[*some, len(lengths)] for k in range(len(lengths)) for some in combinations(inner, k)]
    ends = cut_by_length(lengths, most, call_tokens)
    assert ends[-1] == len(lengths)
    assert cost(ends) == min(map(cost, every))


def test_only_what_is_due_is_taken():
    pool = Pool(10, 10, {})
    pool.add(waiting([3]), 1.0)
    pool.add(waiting([3], first=1), 5.0)
    assert pool.since == 1.0
    assert pool.take_due(0.5) == []
    # The kind's first row is due, and the others gain from going along.
    assert [len(batch.rows) for batch in pool.take_due(1.0)] == [2]
