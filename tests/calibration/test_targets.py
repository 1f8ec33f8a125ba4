# SPDX-License-Identifier: Apache-2.0
import pytest

from hf_sidenet.calibration import parse_targets
from hf_sidenet.calibration.targets import TARGETS, AccuracyDrop, FlopsBudget


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_what_it_writes(name):
    assert parse_targets(str(TARGETS[name](0.25))) == [TARGETS[name](0.25)]


def test_several_stand_in_a_list_or_behind_commas():
    expected = [AccuracyDrop(0.01), FlopsBudget(0.5)]
    assert parse_targets(" accuracy_drop <= 1e-2 , flops<=0.5") == expected
    assert parse_targets(["accuracy_drop<=0.01", FlopsBudget(0.5)]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy<=0.01", "must limit one of accuracy_drop, .*, got 'accuracy'"),
        ("accuracy_drop<0.01", "must look like 'accuracy_drop<=0.01', got 'accuracy_drop<0.01'"),
        ("accuracy_drop<=a lot", "must look like"),
        ("accuracy_drop<=nan", "in .-1, 1., got nan"),
        ("accuracy_drop<=1", "must limit accuracy_drop to a number in .-1, 1., got 1.0"),
        ("disagreement<=0", "must limit disagreement to a number in .0, 1., got 0.0"),
        ("disagreement<=0", "in .0, 1., got 0.0"),
        ("latency_ms<=inf", "finite number > 0, got inf"),
        ("flops<=0.5,flops<=0.4", "each name only once"),
        ([], "at least one limit"),
        ("", "must look like"),
    ],
)
def test_what_is_no_target(text, message):
    with pytest.raises(ValueError, match=f"`target`.*{message}"):
        parse_targets(text)


def test_milliseconds_may_be_more_than_one():
    assert parse_targets("latency_ms<=8")[0].limit == 8
