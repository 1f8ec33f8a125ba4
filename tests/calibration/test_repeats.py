# SPDX-License-Identifier: Apache-2.0
import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hf_sidenet.calibration import RepeatedRowsError, check_fresh, find_repeats, split_rows
from hf_sidenet.calibration.repeats import LEVEL


def drawn(count, num_texts, seed, power=1.0):
    """Texts of which some are common, as of search queries."""
    return random.Random(seed).choices(range(num_texts), [(i + 1) ** -power for i in range(num_texts)], k=count)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.lists(st.integers(0, 60), min_size=1, max_size=60))
def test_shares_are_shares(earlier, rows):
    found = find_repeats(earlier, rows)
    assert 0 <= found.expected <= found.highest <= 1
    assert 0 <= found.p_value <= 1
    # One more that repeats speaks more for a leak.
    more = find_repeats(earlier, [*rows[1:], earlier[0]])
    assert more.num_repeated == found.num_repeated + (rows[0] not in earlier)
    assert more.p_value <= found.p_value


def test_the_interval_covers_the_true_share():
    """Which is the weight of all texts that were seen."""
    missed = 0
    for seed in range(300):
        num_texts, num_rows, power = 20 + 37 * seed % 3000, 100 + 53 * seed % 3000, (0.0, 0.8, 1.2)[seed % 3]
        earlier = drawn(num_rows, num_texts, seed, power)
        weights = [(i + 1) ** -power for i in range(num_texts)]
        missed += find_repeats(earlier, [0]).highest < sum(weights[i] for i in set(earlier)) / sum(weights)
    assert missed <= 2


def test_by_hand():
    found = find_repeats(["a", "a", "b", "c", "d"], ["a", "b", "x", "y"])
    assert (found.num_rows, found.num_repeated, found.num_earlier) == (4, 2, 5)
    assert found.expected == pytest.approx(0.4)
    assert found.p_value == pytest.approx(binom.sf(1, 4, found.highest))


def test_nothing_that_repeats_still_has_an_interval():
    """Of n rows without repetition, 1 − 0.001^(1/n) at most repeat."""
    found = find_repeats(range(1000), [*range(5), *range(10**6, 10**6 + 995)])
    assert found.expected == 0
    assert found.highest == pytest.approx(1 - LEVEL ** (1 / 1000))
    assert not found.too_many
    assert find_repeats(range(1000), [*range(50), *range(10**6, 10**6 + 950)]).too_many


def test_fresh_rows_are_hardly_ever_taken_for_a_leak():
    wrong = sum(
        find_repeats(rows[:1500], rows[1500:]).too_many
        for rows in (drawn(2000, 3000, seed, power) for seed in range(100) for power in (0.7, 1.1))
    )
    assert wrong <= 2


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_leak_shows_among_rows_that_repeat_by_nature(share):
    train, fresh = drawn(6000, 20_000, 0), drawn(3000, 20_000, 1)
    leaked = round(share * len(fresh))
    split = split_rows(len(fresh), 0.75, 0)
    assert check_fresh(split, fresh, train).num_repeated > 1000
    with pytest.raises(RepeatedRowsError, match=r"rows \(.*%\) repeat a .* would, .* at most\. Pass fresh rows"):
        check_fresh(split, [*random.Random(2).sample(train, leaked), *fresh[leaked:]], train)


def test_deduplicated_training_rows_are_named_as_the_reason():
    rows, train = drawn(3000, 20_000, 1), sorted(set(drawn(6000, 20_000, 0)))
    split = split_rows(len(rows), 0.75, 0)
    with pytest.raises(RepeatedRowsError, match=r"were they deduplicated\?.* accept them with `trust_rows`"):
        check_fresh(split, rows, train)
    found = check_fresh(split, rows, train, trust_rows=True)
    assert found.too_many
    assert found.about(True)["trusted"] is True


def test_multiplied_training_rows_are_said_to_hide_a_leak(caplog):
    train, rows = list(range(2000)), list(range(1000, 2000))
    split = split_rows(len(rows), 0.75, 0)
    with caplog.at_level(logging.WARNING, logger="hf_sidenet"):
        check_fresh(split, rows, [*train, *train, *train])
    assert "Training rows repeat each other more often than validation rows do" in caplog.text
    with pytest.raises(RepeatedRowsError):
        check_fresh(split, rows, train)


def test_without_training_rows_design_rows_are_the_earlier_ones():
    split = split_rows(400, 0.75, 0)
    assert check_fresh(split, list(range(400))).num_repeated == 0
    with pytest.raises(
        RepeatedRowsError, match=r"`validation` must contain every row once, but contains every row 2 times"
    ):
        check_fresh(split, [i // 2 for i in range(400)], trust_rows=True)


@pytest.mark.medium
def test_the_script_tells_a_leak_from_repetition(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "calibration" / "repeats.py"
    texts = [f"text {i}" for i in drawn(4000, 5000, 0)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{text},0\n" for text in texts))
    command = [sys.executable, script, "--column", "text", "--splits", "5", tmp_path / "rows.csv"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].split("|")[2:-1]]
    assert cells[0] == "4,000"
    assert float(cells[1]) == pytest.approx(float(cells[2]), abs=0.03)
    assert float(cells[1]) > 0.4
    assert (cells[3], cells[-1]) == ("0", "5")
