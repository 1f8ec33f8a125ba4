# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.nn import functional as F

from hf_sidenet.models.sidenet import exit_loss
from hf_sidenet.models.tasks import SINGLE_LABEL


SIDE = [torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])]
MAIN = torch.tensor([[0.0, math.log(3.0)]])
LABELS = torch.tensor([0])


def test_sum_of_the_exits_by_hand():
    loss = exit_loss(SIDE, MAIN, LABELS, task=SINGLE_LABEL, alpha=[0.5, 2.0])
    expected = -math.log(0.25) + 0.5 * -math.log(0.5) + 2 * -math.log(0.75)
    assert loss.item() == pytest.approx(expected)


def test_a_mainnet_that_did_not_run_has_no_loss():
    assert exit_loss(SIDE, None, LABELS, task=SINGLE_LABEL, alpha=[1.0, 0.0]).item() == pytest.approx(-math.log(0.5))


def test_distillation_is_t_squared_kl_to_a_detached_teacher():
    teacher = MAIN.clone().requires_grad_()
    student = SIDE[1].clone().requires_grad_()
    loss = SINGLE_LABEL.distillation(student, teacher, 2.0)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    torch.testing.assert_close(loss, (4 * (p * (p / q).log()).sum()).detach())
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_mixed_loss_and_no_labels():
    both = exit_loss(
        SIDE[:1], MAIN, LABELS, task=SINGLE_LABEL, alpha=[1.0], distillation_weight=0.25, distillation_temperature=2.0
    )
    ce, kl = SINGLE_LABEL.loss(SIDE[0], LABELS), SINGLE_LABEL.distillation(SIDE[0], MAIN, 2.0)
    torch.testing.assert_close(both, SINGLE_LABEL.loss(MAIN, LABELS) + 0.75 * ce + 0.25 * kl)
    unlabeled = exit_loss(
        SIDE[:1], MAIN, None, task=SINGLE_LABEL, alpha=[1.0], distillation_weight=0.25, distillation_temperature=2.0
    )
    torch.testing.assert_close(unlabeled, 0.25 * kl)
    assert exit_loss(SIDE, MAIN, None, task=SINGLE_LABEL, alpha=[1.0, 1.0]) is None


def test_ignored_rows():
    logits = torch.randn(3, 4)
    torch.testing.assert_close(
        SINGLE_LABEL.loss(logits, torch.tensor([1, -100, 2])), F.cross_entropy(logits[[0, 2]], torch.tensor([1, 2]))
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"in \[0, 3\) or -100, got 3"),
        (torch.tensor([-1, 0]), "got -1"),
        (torch.tensor([0.0, 1.0]), "2 integers, got shape .* torch.float32"),
        (torch.tensor([0]), r"2 integers, got shape \(1,\)"),
        (torch.zeros(2, 3, dtype=torch.long), r"got shape \(2, 3\)"),
    ],
)
def test_impossible_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        SINGLE_LABEL.check_labels(labels, 2, 3)


def test_possible_labels():
    SINGLE_LABEL.check_labels(torch.tensor([0, -100]), 2, 3)
