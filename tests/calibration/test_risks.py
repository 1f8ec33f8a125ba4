# SPDX-License-Identifier: Apache-2.0
"""Risks of five rows, worked out by hand."""

import pytest
import torch

from hf_sidenet import ExitRecords
from hf_sidenet.calibration import binomial, paired, paired_differences
from hf_sidenet.calibration.targets import TARGETS, AccuracyDrop, Disagreement, SelectiveError

from .cases import records


A, B = [4.0, 0.0], [0.0, 4.0]
LOW_A, LOW_B = [0.1, 0.0], [0.0, 0.1]
# label, SideNet, MainNet: agree and right; harmed; helped; stays; agree and wrong
LABELS = [0, 0, 1, 1, 0]
SIDENET = [A, B, B, LOW_A, B]
MAINNET = [A, A, A, B, B]


def five():
    exit_logits = torch.tensor([SIDENET, MAINNET]).transpose(0, 1)
    return ExitRecords(exit_logits, torch.tensor(LABELS), torch.tensor(MAINNET))


def test_paired_differences_by_hand():
    assert paired_differences(five(), torch.tensor([0, 0, 0, 1, 0])).tolist() == [0, 1, -1, 0, 0]


@pytest.mark.parametrize(
    ("name", "estimate", "num_rows", "num_bad", "num_helped"),
    [
        ("accuracy_drop", 0.0, 5, 1, 1),
        # Four leave, two of them wrong.
        ("selective_error", 0.5, 4, 2, 0),
        ("disagreement", 0.4, 5, 2, 0),
    ],
)
def test_every_risk_by_hand(name, estimate, num_rows, num_bad, num_helped):
    found = TARGETS[name](0.3).measure(five(), five().route([0.9], [1.0, 1.0]), "paired")
    assert (found.estimate, found.num_rows, found.num_bad, found.num_helped) == (
        estimate, num_rows, num_bad, num_helped
    )  # fmt: skip
    p_value = paired(1, 1, 5, 0.3) if name == "accuracy_drop" else binomial(num_bad, num_rows, 0.3)
    assert found.p_value == p_value


def test_the_test_is_the_one_that_was_chosen():
    many = records(400)
    p_values = {
        test: AccuracyDrop(0.2).measure(many, many.route([0.9, 0.9], [1.0] * 3), test).p_value
        for test in ("paired", "binomial", "betting")
    }
    assert len(set(p_values.values())) == 3


def test_nobody_leaves_no_risk():
    found = SelectiveError(0.1).measure(five(), five().route([1.0], [1.0, 1.0]), "paired")
    assert (found.num_rows, found.p_value) == (0, 1.0)
    assert AccuracyDrop(0.1).measure(five(), five().route([1.0], [1.0, 1.0]), "paired").estimate == 0


def test_a_broken_answer_is_a_loss():
    rows = five()
    rows.exit_logits[0, 1] = torch.nan
    found = Disagreement(0.1).measure(rows, rows.route([1.0], [1.0, 1.0]), "paired")
    assert found.num_bad == 1
    assert AccuracyDrop(0.1).measure(rows, rows.route([1.0], [1.0, 1.0]), "paired").num_bad == 1


def test_expected_losses_are_none_where_exits_agree():
    losses = AccuracyDrop(0.1).expected_losses(five(), [1.0, 1.0])
    assert losses[:, 1].tolist() == [0.0] * 5
    assert losses[[0, 4], 0].tolist() == [0.0, 0.0]
    # Harmed: the MainNet's certainty and the label both speak for it.
    believed = torch.softmax(torch.tensor(A).double(), 0)
    assert losses[1, 0].item() == pytest.approx(((believed[0] + 1) / 2 - believed[1] / 2).item())
    assert losses[2, 0].item() == pytest.approx((believed[0] / 2 - (believed[1] + 1) / 2).item())


@pytest.mark.parametrize(
    ("name", "num_rows", "num_bad", "num_helped"),
    [
        # p = softmax([4, 0])[0] = 0.982. Rows 1 and 2 differ: the reference is right with (p + 1) / 2 and p / 2, the
        # SideNet with (1 - p) / 2 and (2 - p) / 2; a hundredfold, 148.2 and 51.8.
        ("accuracy_drop", 500, 149, 51),
        ("disagreement", 500, 200, 0),
        # Four leave, of which two are expected to be wrong.
        ("selective_error", 400, 200, 0),
    ],
)
def test_expected_risk_by_hand(name, num_rows, num_bad, num_helped):
    expected = TARGETS[name](0.3).expected(five(), torch.tensor([0, 0, 0, 1, 0]), [1.0, 1.0], 500, "paired")
    assert (expected.num_rows, expected.num_helped) == (num_rows, num_helped)
    # Sums of floats are rounded up.
    assert expected.num_bad - num_bad in ((0, 1) if name == "selective_error" else (0,))
    assert expected.estimate == pytest.approx((expected.num_bad - num_helped) / num_rows)
    p_value = paired(149, 51, 500, 0.3) if name == "accuracy_drop" else binomial(expected.num_bad, num_rows, 0.3)
    assert expected.p_value == p_value
