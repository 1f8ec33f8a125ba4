# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.inference.engine import halved


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_every_bad_item_stands_alone_and_no_good_one_is_lost(count, bad):
    def run(part):
        if bad.intersection(part):
            raise ValueError(str(list(part)))
        return [10 * item for item in part]

    seen = []
    for part, outcome in halved(range(count), run):
        seen += part
        if bad.intersection(part):
            assert str(outcome) == str(list(part))
            assert len(part) == 1
        else:
            assert outcome == [10 * item for item in part]
    assert seen == list(range(count))


def test_what_is_too_much_at_once_is_done_in_parts():
    def run(part):
        if len(part) > 3:
            raise MemoryError
        return len(part)

    assert sum(outcome for _, outcome in halved(list("abcdefghijk"), run)) == 11


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_row(interruption):
    def run(part):
        raise interruption

    with pytest.raises(interruption):
        list(halved([1, 2], run))
