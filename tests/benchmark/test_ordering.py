# SPDX-License-Identifier: Apache-2.0
"""The same rows in two orders."""

from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.benchmark.ordering import by_length, cut
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
