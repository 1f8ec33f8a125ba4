# SPDX-License-Identifier: Apache-2.0
"""What a θ does to rows: who is harmed, who is helped, and what that says about a target."""

import math
from dataclasses import dataclass

import torch

from ..measurement.records import ExitRecords
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
    reference = records.correct(records.mainnet_logits)
    routed = records.correct(answers(records.exit_logits, exit_index))
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
    exit_index = records.route(thresholds, temperatures)
    if target.name == "accuracy_drop":
        differences = paired_differences(records, exit_index)
        if groups is not None:
            return _grouped(differences, torch.ones_like(differences), target, groups)
        return _accuracy_drop(differences, target.limit, test)
    routed = answers(records.exit_logits, exit_index)
    counted = torch.ones(len(records), dtype=torch.bool)
    if target.name == "selective_error":
        bad, counted = ~records.correct(routed), exit_index < records.num_exits - 1
    else:
        bad = records.task.differs(routed, records.mainnet_logits)
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
    if target.name == "disagreement":
        return records.task.differs(records.exit_logits, records.mainnet_logits.unsqueeze(1)).double()
    right = _probably_right(records, records.exit_logits, temperatures)
    if target.name == "selective_error":
        losses = 1 - right
        losses[:, -1] = 0.0
        return losses
    return _probably_right(records, records.mainnet_logits.unsqueeze(1), temperatures) - right


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
    routed, reference = answers(records.exit_logits, exit_index), records.mainnet_logits
    differs = records.task.differs(routed, reference)
    right, reference_right = _probably_right(records, torch.stack([routed, reference], 1), temperatures).unbind(1)
    scale = num_rows / len(records)
    if target.name == "accuracy_drop":
        harmed = math.ceil(scale * reference_right[differs].sum().item())
        helped = math.floor(scale * right[differs].sum().item())
        if test == "binomial":
            p_value = binomial(harmed, num_rows, target.limit)
        else:
            p_value = paired(harmed, helped, num_rows, target.limit)
        return RiskEstimate((harmed - helped) / num_rows, p_value, num_rows, harmed, helped)
    if target.name == "selective_error":
        left = exit_index < records.num_exits - 1
        bad, num_rows = (1 - right)[left].sum().item(), round(scale * int(left.sum()))
    else:
        bad = differs.sum().item()
    num_bad = math.ceil(scale * bad)
    estimate = num_bad / num_rows if num_rows else float("nan")
    return RiskEstimate(estimate, binomial(num_bad, num_rows, target.limit), num_rows, num_bad, 0)


def _probably_right(records: ExitRecords, answered: torch.Tensor, temperatures: list[float]) -> torch.Tensor:
    """Probability that answers of shape `(num_rows, num_answers, num_labels)` are right: `(num_rows, num_answers)`."""
    return records.task.probably_right(answered, records.exit_logits[:, -1], temperatures[-1], records.labels)
