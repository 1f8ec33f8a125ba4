# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.calibration import count_looks, level_of_all, look_key, parse_targets, split_rows


KEYS = [f"row {i}" for i in range(200)]


@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_two_parts_are_disjoint_and_all(num_rows, fraction, seed):
    if round(fraction * num_rows) in (0, num_rows):
        return
    split = split_rows(KEYS[:num_rows], fraction, seed)
    assert sorted([*split.design.tolist(), *split.certification.tolist()]) == list(range(num_rows))
    assert len(split.certification) == round(fraction * num_rows)
    assert split.num_known == 0


def test_the_seed_decides():
    first, again, other = (split_rows(KEYS, 0.75, seed).certification.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_known_rows_do_not_certify():
    split = split_rows(KEYS, 0.75, 0)
    known = {KEYS[i] for i in split.certification[:5].tolist()} | {KEYS[i] for i in split.design[:5].tolist()}
    found = split_rows(KEYS, 0.75, 0, known)
    assert found.num_known == 5
    assert found.certification.tolist() == split.certification[5:].tolist()
    assert found.design.tolist() == split.design.tolist()


def test_a_row_that_designs_does_not_certify_either():
    keys = [*KEYS[:100], KEYS[0]]
    for seed in range(20):
        split = split_rows(keys, 0.5, seed)
        used = [keys[i] for i in split.design.tolist()], [keys[i] for i in split.certification.tolist()]
        assert not set(used[0]) & set(used[1])


def test_the_same_file_twice_is_refused():
    with pytest.raises(ValueError, match="150 of 150 certification rows are also training or design rows"):
        split_rows(KEYS, 0.75, 0, set(KEYS))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1, float("nan")])
def test_fractions(fraction):
    with pytest.raises(ValueError, match=r"`certification_fraction` must be in \(0, 1\)"):
        split_rows(KEYS, fraction, 0)


def test_too_few_rows_to_split():
    with pytest.raises(ValueError, match="`validation` must have rows to design and to certify with, got 1"):
        split_rows(KEYS[:1], 0.5, 0)


def test_calibrations_on_the_same_rows_are_counted(tmp_path):
    settings = {
        "weights": "w",
        "targets": parse_targets("accuracy_drop<=0.01"),
        "confidence_level": 0.95,
        "test": "paired",
        "reference": None,
        "split": (0, 0.75),
    }
    first = look_key(**settings)
    assert count_looks(tmp_path, "rows", first) == 1
    assert count_looks(tmp_path, "rows", look_key(**settings)) == 1
    others = {
        "weights": "v",
        "targets": parse_targets("accuracy_drop<=0.02"),
        "confidence_level": 0.9,
        "test": "binomial",
        "reference": "r",
        "split": (1, 0.75),
    }
    for number, (name, value) in enumerate(others.items(), 2):
        assert count_looks(tmp_path, "rows", look_key(**{**settings, name: value})) == number
    assert count_looks(tmp_path, "rows", first) == 7
    assert count_looks(tmp_path, "others", first) == 1


def test_all_of_several_guarantees_together():
    assert [level_of_all(count, 0.95) for count in (1, 2, 20, 30)] == pytest.approx([0.95, 0.9, 0.0, 0.0])
