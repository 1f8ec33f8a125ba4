# SPDX-License-Identifier: Apache-2.0
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_sidenet.evaluation import class_recalls
from hf_sidenet.evaluation.recalls import certified_rows, losing_most, mcnemar, recall_rows, recall_warnings
from hf_sidenet.measurement import ExitRecords


def records(labels, reference, routed):
    """Two exits: the first answers everything with `routed`."""
    labels, reference, routed = (torch.tensor(each) for each in (labels, reference, routed))
    count = int(max(labels.max(), reference.max(), routed.max())) + 1
    first, last = (9.0 * torch.nn.functional.one_hot(each, count) for each in (routed, reference))
    return ExitRecords(torch.stack([first, last], 1), labels, last.clone())


def recalls(*columns, **kwargs):
    return class_recalls(records(*columns), [0.0], [1.0, 1.0], **kwargs)


def rare():
    """95/5: with exits, more rows are correct but the rare class is lost."""
    labels = [0] * 950 + [1] * 50
    reference = [0] * 900 + [1] * 50 + [1] * 37 + [0] * 13
    routed = [0] * 950 + [1] * 6 + [0] * 44
    return labels, reference, routed


def test_by_hand():
    common, minority = recalls(*rare(), names=["no", "yes"])
    assert (minority.name, minority.num_rows, minority.num_harmed, minority.num_helped) == ("yes", 50, 31, 0)
    assert (minority.reference.value, minority.routed.value) == (0.74, 0.12)
    assert minority.p_value == 2**-31
    assert (common.num_harmed, common.num_helped, common.p_value) == (0, 50, 1.0)
    assert (common.loses, minority.loses) == (False, True)
    expected = stats.binomtest(6, 50).proportion_ci(0.95, method="wilson")
    assert (minority.routed.low, minority.routed.high) == pytest.approx((expected.low, expected.high))
    (warning,) = recall_warnings([asdict(each) for each in (common, minority)])
    assert "'yes' loses: its recall is 12.0 [5.6, 23.8] % instead of 74.0 [60.4, 84.1] %" in warning


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_exact(harmed, helped):
    assert mcnemar(harmed, helped) == pytest.approx(stats.binom.cdf(helped, harmed + helped, 0.5))


def test_many_classes_are_corrected_for():
    # One class of 100 loses 6 rows of 6: p = 1/64, not significant among a hundred.
    labels = [label for label in range(100) for _ in range(6)]
    routed = [0 if label == 99 else label for label in labels]
    found = recalls(labels, labels, routed)
    assert found[99].p_value == 1 / 64
    assert not any(each.loses for each in found)
    few = [label for label in labels if label in (0, 99)]
    assert recalls(few, few, [0] * 12)[1].loses


def test_the_ten_that_lose_most():
    labels = [label for label in range(12) for _ in range(20)]
    routed = [(label + 1) % 12 if i % 20 < label else label for i, label in enumerate(labels)]
    found = [asdict(each) for each in recalls(labels, labels, routed)]
    assert [each["label_id"] for each in losing_most(found)] == list(range(11, 1, -1))
    assert [each["label_id"] for each in losing_most(found[:10])] == list(range(10))
    assert len(recall_rows(found)) == 11


def test_classes_without_rows_and_odd_names():
    found = recalls([2, 2], [2, 2], [2, 0], names=["a", "b", "c\n| d"])
    assert [each.label_id for each in found] == [2]
    assert recall_rows([asdict(each) for each in found])[1][0] == "c ¦ d"
    assert recalls([0, 1], [0, 1], [0, 1])[1].name == "1"


def with_sidenet(right, early):
    """A MainNet that is right on 70 of 100 rows, and a SideNet that is right on the first ones, and sure of some."""
    labels = torch.zeros(100, dtype=torch.long)
    sidenet = torch.tensor([[3.0, 0.0] if i < right else [0.0, 3.0] for i in range(100)])
    sidenet[early:] /= 9
    mainnet = torch.tensor([[1.0, 0.0] if i >= 30 else [0.0, 1.0] for i in range(100)])
    return ExitRecords(torch.stack([sidenet, mainnet], 1), labels, mainnet)


@pytest.mark.parametrize(("right", "better"), [(70, False), (75, False), (100, True)])
def test_a_mainnet_that_its_sidenet_beats(right, better):
    found = certified_rows(with_sidenet(right, 50), ["no", "yes"], ([0.8], [1.0, 1.0]), {}, exit_layers=[2])
    assert any("SideNet 0 alone is right on 100.0 %" in each for each in found["notices"]) == better
    assert len(found["notices"]) == better


@pytest.mark.parametrize(("early", "layers", "needed"), [(94, [0], True), (95, [0], False), (100, [1], True)])
def test_a_mainnet_that_is_hardly_needed(early, layers, needed):
    found = certified_rows(with_sidenet(70, early), ["no", "yes"], ([0.8], [1.0, 1.0]), {}, exit_layers=layers)
    text = f"{early}.0 % of the certification rows exit before the first block: for these data, the MainNet is hardly"
    assert [text in each for each in found["notices"]] == ([] if needed else [True])
    assert certified_rows(with_sidenet(100, early), ["no", "yes"], None, {}, exit_layers=layers)["notices"] == []


def test_what_a_report_says():
    rows, repeated = records(*rare()), {"num_rows": 1000, "num_repeated": 3}
    found = certified_rows(rows, ["no", "yes"], ([0.0], [1.0, 1.0]), repeated)
    assert found["repeated_rows"] == repeated
    assert (found["num_rows"], found["reference_accuracy"]) == (1000, 0.937)
    assert [each["loses"] for each in found["recalls"]] == [False, True]
    assert certified_rows(rows, ["no", "yes"], None, repeated)["recalls"] == []
    assert certified_rows(rows, ["no", "yes"], ([0.0], [1.0, 1.0]), repeated, has_labels=False)["recalls"] == []
