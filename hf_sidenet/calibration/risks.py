# SPDX-License-Identifier: Apache-2.0
"""What a θ does to rows: who is harmed, who is helped, and what that says about a target."""

import math
from dataclasses import dataclass

import torch

from ..measurement.metrics import correct_rows
from ..measurement.records import ExitRecords
from ..measurement.replay import replay
from ..models.exit_rule import answers
from .pvalues import betting, binomial, paired
from .targets import Target


@dataclass(frozen=True)
class RiskEstimate:
    """A risk on some rows, and how strongly they speak against its being above the limit.

    Args:
        estimate (`float`): the risk on these rows; NaN when no row counts.
        p_value (`float`): of the hypothesis that the risk is ≥ the limit.
        num_rows (`int`): rows that count: all of them, or those that a SideNet answered.
        num_bad (`int`): harmed rows, errors or disagreements.
        num_helped (`int`): rows that the MainNet answers wrongly and the routed model rightly; 0 for other risks.
    """

    estimate: float
    p_value: float
    num_rows: int
    num_bad: int
    num_helped: int


def paired_differences(records: ExitRecords, exit_index: torch.Tensor) -> torch.Tensor:
    """1 where the reference is right and the routed answer wrong, −1 the other way round, else 0.

    Args:
        records ([`ExitRecords`]): the rows.
        exit_index (`torch.LongTensor` of shape `(num_rows,)`): which exit answers each row.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`.
    """
    reference = correct_rows(records.mainnet_logits, records.labels)
    routed = correct_rows(answers(records.exit_logits, exit_index), records.labels)
    return reference.long() - routed.long()


def risk(
    records: ExitRecords,
    thresholds: list[float],
    temperatures: list[float],
    target: Target,
    test: str,
    groups: torch.Tensor | None = None,
) -> RiskEstimate:
    """Estimate and p-value of a risk at one θ.

    Args:
        records ([`ExitRecords`]): the rows, in an order fixed without looking at them.
        thresholds (`list[float]`): θ of each SideNet.
        temperatures (`list[float]`): one per exit.
        target ([`Target`]): the risk and its limit.
        test (`str`): for `accuracy_drop`, one of `"paired"`, `"binomial"`, `"betting"`; the others are binomial.
        groups (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
            Number of each row's group. Then the risk is a mean over groups of the mean of their rows, and every test
            is a betting test on these means.
    """
    exit_index = replay(records.exit_logits, thresholds, temperatures)
    if target.name == "accuracy_drop":
        differences = paired_differences(records, exit_index)
        if groups is not None:
            return _grouped(differences, torch.ones_like(differences), target, groups)
        return _accuracy_drop(differences, target.limit, test)
    routed = answers(records.exit_logits, exit_index)
    counted = torch.ones(len(records), dtype=torch.bool)
    if target.name == "selective_error":
        bad, counted = ~correct_rows(routed, records.labels), exit_index < records.num_exits - 1
    else:
        reference = records.mainnet_logits
        broken = routed.isnan().any(-1) | reference.isnan().any(-1)
        bad = (routed.argmax(-1) != reference.argmax(-1)) | broken
    if groups is not None:
        return _grouped((bad & counted).long(), counted, target, groups)
    num_bad, num_rows = int(bad[counted].sum()), int(counted.sum())
    estimate = num_bad / num_rows if num_rows else float("nan")
    return RiskEstimate(estimate, binomial(num_bad, num_rows, target.limit), num_rows, num_bad, 0)


def _grouped(losses: torch.Tensor, counted: torch.Tensor, target: Target, groups: torch.Tensor) -> RiskEstimate:
    """A risk of groups, by its losses of rows in {−1, 0, 1} and by which rows count."""
    loss, share = group_means(losses, groups), group_means(counted, groups)
    # A ratio of two means is below its limit where the mean of this difference is below 0.
    p_value = (
        betting(loss - target.limit * share, 0.0) if target.name == "selective_error" else betting(loss, target.limit)
    )
    estimate = (loss.sum() / share.sum()).item()
    num_bad, num_helped = int((losses == 1).sum()), int((losses == -1).sum())
    return RiskEstimate(estimate, p_value, int(counted.sum()), num_bad, num_helped)


def group_means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean of each group, in the order of the numbers of the groups.

    Args:
        values (`torch.Tensor` of shape `(num_rows,)`): of the rows.
        groups (`torch.LongTensor` of shape `(num_rows,)`): number of each row's group, from 0 on.

    Returns:
        `torch.Tensor` of shape `(num_groups,)`: float64.
    """
    sums = torch.bincount(groups, values.double())
    return sums / torch.bincount(groups)


def _accuracy_drop(differences: torch.Tensor, limit: float, test: str) -> RiskEstimate:
    num_rows = len(differences)
    harmed, helped = int((differences == 1).sum()), int((differences == -1).sum())
    if test == "paired":
        p_value = paired(harmed, helped, num_rows, limit)
    elif test == "binomial":
        p_value = binomial(harmed, num_rows, limit)
    else:
        p_value = betting(differences, limit)
    estimate = (harmed - helped) / num_rows if num_rows else float("nan")
    return RiskEstimate(estimate, p_value, num_rows, harmed, helped)


def expected_losses(records: ExitRecords, temperatures: list[float], target: Target) -> torch.Tensor:
    """What an answer at each exit is expected to cost each row.

    Args:
        records ([`ExitRecords`]): the rows.
        temperatures (`list[float]`): one per exit.
        target ([`Target`]): the risk; a budget counts as `accuracy_drop`.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_exits)`: float64.
    """
    picks, reference = records.exit_logits.argmax(-1), records.mainnet_logits.argmax(-1, keepdim=True)
    if target.name == "disagreement":
        return (picks != reference).double()
    right = _probably_right(records, temperatures)
    if target.name == "selective_error":
        losses = 1 - right.gather(1, picks)
        losses[:, -1] = 0.0
        return losses
    return right.gather(1, reference) - right.gather(1, picks)


def expected_risk(
    records: ExitRecords,
    exit_index: torch.Tensor,
    temperatures: list[float],
    target: Target,
    num_rows: int,
    test: str,
) -> RiskEstimate:
    """What [`risk`] would say of `num_rows` rows like these, if they came out as expected.

    Args:
        records ([`ExitRecords`]): rows that certify nothing.
        exit_index (`torch.LongTensor` of shape `(num_rows,)`): which exit answers each of them.
        temperatures (`list[float]`): one per exit.
        target ([`Target`]): the risk and its limit.
        num_rows (`int`): rows that will certify.
        test (`str`): the test of `accuracy_drop`; for `"betting"` the paired one stands in, which has no order.
    """
    routed = answers(records.exit_logits, exit_index).argmax(-1, keepdim=True)
    reference = records.mainnet_logits.argmax(-1, keepdim=True)
    right = _probably_right(records, temperatures)
    differs = (routed != reference).squeeze(1)
    scale = num_rows / len(records)
    if target.name == "accuracy_drop":
        harmed = math.ceil(scale * right.gather(1, reference).squeeze(1)[differs].sum().item())
        helped = math.floor(scale * right.gather(1, routed).squeeze(1)[differs].sum().item())
        if test == "binomial":
            p_value = binomial(harmed, num_rows, target.limit)
        else:
            p_value = paired(harmed, helped, num_rows, target.limit)
        return RiskEstimate((harmed - helped) / num_rows, p_value, num_rows, harmed, helped)
    if target.name == "selective_error":
        left = exit_index < records.num_exits - 1
        bad, num_rows = (1 - right.gather(1, routed).squeeze(1))[left].sum().item(), round(scale * int(left.sum()))
    else:
        bad = differs.sum().item()
    num_bad = math.ceil(scale * bad)
    estimate = num_bad / num_rows if num_rows else float("nan")
    return RiskEstimate(estimate, binomial(num_bad, num_rows, target.limit), num_rows, num_bad, 0)


def _probably_right(records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
    """Probability of each class, `(num_rows, num_labels)`: half what the MainNet believes, half what is so.

    Of less variance than the labels alone, which say of a single row only whether it was lucky.
    """
    believed = (records.exit_logits[:, -1].double() / temperatures[-1]).softmax(-1)
    return (believed + torch.nn.functional.one_hot(records.labels, believed.shape[1])) / 2
