# SPDX-License-Identifier: Apache-2.0
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from hf_sidenet.calibration import count_looks, level_of_all, look_key, parse_targets


ROWS, OTHERS = ([f"{word} {i:05d}".ljust(32) for i in range(300)] for word in ("row", "other"))


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
    assert count_looks(tmp_path, ROWS, first) == 1
    assert count_looks(tmp_path, ROWS, look_key(**settings)) == 1
    others = {
        "weights": "v",
        "targets": parse_targets("accuracy_drop<=0.02"),
        "confidence_level": 0.9,
        "test": "binomial",
        "reference": "r",
        "split": (1, 0.75),
        "chain": [[0.5], [0.0, 0.0]],
    }
    for number, (name, value) in enumerate(others.items(), 2):
        assert count_looks(tmp_path, ROWS, look_key(**{**settings, name: value})) == number
    assert count_looks(tmp_path, ROWS, first) == 8
    assert count_looks(tmp_path, OTHERS, first) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: random.Random(0).sample(rows, len(rows)),
        lambda rows: rows[1:],
        lambda rows: rows[:100],
        lambda rows: [*rows, *OTHERS],
        lambda rows: [*rows[:30], *OTHERS],
        lambda rows: [*rows, *rows],
    ],
    ids=["shuffled", "one dropped", "a third", "with others", "a few of them", "twice"],
)
def test_rows_are_known_again(change, tmp_path):
    assert count_looks(tmp_path, ROWS, "first") == 1
    assert count_looks(tmp_path, change(ROWS), "second") == 2


def test_rows_that_repeat_by_nature_are_other_rows(tmp_path):
    """Of a few hundred texts, of which some are common, two draws have many in common."""
    chance = random.Random(0)
    texts, weights = [f"text {i:05d}".ljust(32) for i in range(2000)], [1 / (i + 1) for i in range(2000)]
    draws = [chance.choices(texts, weights, k=500) for _ in range(4)]
    assert len(set(draws[0]) & set(draws[1])) > 60
    assert [count_looks(tmp_path, rows, "look") for rows in draws] == [1, 1, 1, 1]


def test_many_at_once_lose_none(tmp_path):
    looks = [f"look {i}" for i in range(16)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(partial(count_looks, tmp_path, ROWS), looks))
    assert count_looks(tmp_path, ROWS, looks[0]) == 16


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"rows": 1, "looks": []}', "null"])
def test_a_damaged_file_is_an_error(text, tmp_path):
    count_looks(tmp_path, ROWS, "look")
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=f"`{path}` must record how often rows have certified, but is damaged"):
        count_looks(tmp_path, ROWS, "look")
    assert path.read_text() == text


def test_all_of_several_guarantees_together():
    assert [level_of_all(count, 0.95) for count in (1, 2, 20, 30)] == pytest.approx([0.95, 0.9, 0.0, 0.0])
