# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.calibration import split_rows


@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_two_parts_are_disjoint_and_all(num_rows, fraction, seed):
    if round(fraction * num_rows) in (0, num_rows):
        return
    split = split_rows(num_rows, fraction, seed)
    assert sorted([*split.design.tolist(), *split.certification.tolist()]) == list(range(num_rows))
    assert len(split.certification) == round(fraction * num_rows)


def test_the_seed_decides():
    first, again, other = (split_rows(200, 0.75, seed).certification.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1, float("nan")])
def test_fractions(fraction):
    with pytest.raises(ValueError, match=r"`certification_fraction` must be in \(0, 1\)"):
        split_rows(200, fraction, 0)


def test_too_few_rows_to_split():
    with pytest.raises(ValueError, match="`validation` must have rows for both design and certification, got 1"):
        split_rows(1, 0.5, 0)
