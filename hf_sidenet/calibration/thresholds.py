# SPDX-License-Identifier: Apache-2.0
"""From targets to thresholds: Learn-then-Test with fixed-sequence testing along one path.

Learn-then-Test is Angelopoulos et al., arXiv 2110.01052; for early exits see Jazbec et al., arXiv 2405.20915. The
path, the temperatures and the test are fixed on rows that certify nothing. The certification rows are used only to
walk along the path, test at each point the hypothesis that the risk is above its limit, and stop at the first
hypothesis that is not rejected. With probability ≥ confidence level over these rows, no earlier point has a risk above
the limit, on the distribution of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..measurement.costs import ExitCosts, answered_at
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from .pvalues import TESTS
from .targets import Budget, Risk, RiskEstimate, Target


class TooFewRowsError(ValueError):
    """Too few certification rows for a target, whatever they show.

    Args:
        num_rows (`int`): number of rows.
        needed (`int`): minimum number of rows.
    """

    def __init__(self, message: str, num_rows: int, needed: int):
        super().__init__(message)
        self.num_rows = num_rows
        self.needed = needed


@dataclass(frozen=True)
class PathPoint:
    """One point of the path, measured on the certification rows.

    Args:
        thresholds (`list[float]`): θ of each SideNet.
        accuracy (`float`): accuracy of the routed answers.
        shares (`list[float]`): fraction of rows that each exit answers.
        flops (`float`): mean per row, as a fraction of the plain MainNet's; `params` and `milliseconds` likewise.
        risks (`dict[str, RiskEstimate]`): risk for each guaranteed target.
        certified (`bool`): whether every guaranteed target was certified here.
    """

    thresholds: list[float]
    accuracy: float
    shares: list[float]
    params: float
    flops: float
    milliseconds: float
    risks: dict[str, RiskEstimate]
    certified: bool

    def cost(self, target: Budget, costs: ExitCosts) -> float:
        """Return the cost that a budget limits, in the unit of its limit."""
        return target.cost(getattr(self, target.currency), costs)


@dataclass(frozen=True)
class Selection:
    """Result of the walk along the path.

    Args:
        points (`list[PathPoint]`): points tested, in the order of the path.
        chosen (`PathPoint`, *optional*): chosen point; `None` if attaching does not pay off.
        reason (`str`): why this point was chosen, or why none.
    """

    points: list[PathPoint]
    chosen: PathPoint | None
    reason: str


def select_thresholds(
    records: ExitRecords,
    costs: ExitCosts,
    path: Sequence[list[float]],
    temperatures: list[float],
    targets: Sequence[Target],
    *,
    confidence_level: float = 0.95,
    test: str = "paired",
    design: ExitRecords | None = None,
    groups: torch.Tensor | None = None,
) -> Selection:
    """Choose the thresholds of a path that meet every target.

    With a guaranteed target, this is the cheapest certified point within every budget; with budgets alone, which are
    not guaranteed, the most accurate point within them.

    Args:
        records ([`ExitRecords`]): the certification rows, used for nothing else.
        costs ([`ExitCosts`]): costs of the model.
        path (`Sequence[list[float]]`): threshold vectors, fixed beforehand; at the first, no row exits early.
        temperatures (`list[float]`): one per exit.
        targets (`Sequence[Target]`): targets; risks share δ = 1 − confidence level equally.
        confidence_level (`float`, *optional*, defaults to 0.95): probability with which the guarantee holds.
        test (`str`, *optional*, defaults to `"paired"`): test of `accuracy_drop`; see [`pvalues`].
        design ([`ExitRecords`], *optional*):
            Rows that certify nothing; `selective_error`, and an `accuracy_drop` ≤ 0, need them to fix the start of
            their sequence beforehand.
        groups (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
            Number of each row's group; see [`Risk.measure`].

    Raises:
        TooFewRowsError: there are too few rows to certify a target, whatever they show.
        ValueError: an argument is invalid.
    """
    if test not in TESTS:
        raise ArgumentError("test", f"must be one of {TESTS}", test)
    if not path or len(records) == 0:
        raise ArgumentError("path", f"and `records` must not be empty, got {len(path)} points and {len(records)} rows")
    risks = [target for target in targets if isinstance(target, Risk)]
    budgets = [target for target in targets if isinstance(target, Budget)]
    num_independent = len(records) if groups is None else len(groups.unique())
    check_targets(targets, confidence_level, test, num_independent, grouped=groups is not None)
    level = level_per_target(targets, confidence_level)
    start = max((_start(target, level, path, temperatures, design, len(records), test) for target in risks), default=0)
    points = []
    for thresholds in path[start:]:
        exit_index = records.route(thresholds, temperatures)
        estimates = {str(target): target.measure(records, exit_index, test, groups) for target in risks}
        certified = bool(risks) and all(estimate.p_value <= level for estimate in estimates.values())
        points.append(_point(records, costs, thresholds, exit_index, estimates, certified))
        if risks and not certified:
            break
    return _choose(points, costs, risks, budgets)


def _choose(points: list[PathPoint], costs: ExitCosts, risks: list[Risk], budgets: list[Budget]) -> Selection:
    allowed = [point for point in points if point.certified or not risks]
    if not allowed:
        worst = points[0] if points else None
        what = "; ".join(
            f"{name}: {estimate.estimate:.4f} on {estimate.num_rows} rows, p = {estimate.p_value:.3g}"
            for name, estimate in (worst.risks if worst else {}).items()
        )
        return Selection(points, None, f"no threshold is certified ({what or 'the path has no point to test'}).")
    within = [point for point in allowed if all(point.cost(t, costs) <= t.limit for t in budgets)]
    if not within:
        cheapest = min(allowed, key=lambda point: point.flops)
        reached = ", ".join(f"{t.name} {cheapest.cost(t, costs):.3g} for ≤ {t.limit:g}" for t in budgets)
        return Selection(points, None, f"no {'certified ' if risks else ''}threshold is within the budget: {reached}.")
    if risks:
        chosen, reason = min(within, key=lambda point: point.flops), "the cheapest certified threshold"
    else:
        saving = [point for point in within if point.flops < 1] or within
        chosen = max(saving, key=lambda point: (point.accuracy, -point.flops))
        reason = "the most accurate threshold within the budget"
    if chosen.flops >= 1:
        return Selection(
            points,
            None,
            f"{reason} costs {chosen.flops:.3f} of the plain MainNet's FLOPs, SideNets included: "
            "attaching does not pay off.",
        )
    return Selection(points, chosen, reason)


def check_confidence_level(confidence_level: float) -> None:
    """Reject a confidence level that is not in (0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0 < confidence_level < 1:
        raise ArgumentError("confidence_level", "must be in (0, 1)", confidence_level)


def level_per_target(targets: Sequence[Target], confidence_level: float) -> float:
    """Return δ of one guaranteed target: an equal part of 1 − confidence level."""
    return (1 - confidence_level) / max(1, sum(target.is_risk for target in targets))


def check_targets(
    targets: Sequence[Target], confidence_level: float, test: str, num_rows: int, *, grouped: bool = False
) -> None:
    """Call [`check_enough`] for every guaranteed target, at its part of δ.

    Raises:
        TooFewRowsError: there are too few rows; the message says how many are needed.
        ValueError: the confidence level is invalid.
    """
    check_confidence_level(confidence_level)
    for target in targets:
        check_enough(target, level_per_target(targets, confidence_level), test, num_rows, grouped=grouped)


def check_enough(target: Target, level: float, test: str, num_rows: int, *, grouped: bool = False) -> None:
    """Reject a number of certification rows that could never certify a risk.

    Raises:
        TooFewRowsError: there are too few rows; the message says how many are needed.
    """
    if not isinstance(target, Risk):
        return
    needed = target.needed_rows(level, test, grouped)
    if num_rows < needed:
        what = "groups of certification rows" if grouped else "certification rows"
        raise TooFewRowsError(
            f"{target} at level {level:.3g} needs at least {needed} {what} even if none shows a loss, got {num_rows}. "
            "Pass more validation rows, or loosen the target or the confidence level.",
            num_rows,
            needed,
        )


def _start(
    target: Risk,
    level: float,
    path: Sequence[list[float]],
    temperatures: list[float],
    design: ExitRecords | None,
    num_rows: int,
    test: str,
) -> int:
    """Return where the sequence starts: at the first point, unless the target cannot be met there.

    A conditional risk is tested only on the rows that count: there must be at least ⌈ln δ / ln(1 − ε)⌉, enough to pass
    without an error. A drop ≤ 0 needs rows that SideNets answer better than the MainNet. Then the sequence starts at
    the point most likely to pass. This is estimated on the design rows: on the certification rows, the sequence would
    depend on the rows it tests.
    """
    if not target.starts_late:
        return 0
    if design is None or len(design) == 0:
        raise ArgumentError("design", f"must be given for {target.name}, to fix the start of its sequence; got none")
    needed = target.needed_rows(level, test)
    expected = []
    for index, thresholds in enumerate(path):
        exit_index = design.route(thresholds, temperatures)
        estimate = target.expected(design, exit_index, temperatures, num_rows, test)
        if estimate.num_rows >= needed:
            expected.append((estimate.p_value, index))
    return min(expected, default=(1.0, len(path)))[1]


def _point(
    records: ExitRecords,
    costs: ExitCosts,
    thresholds: list[float],
    exit_index: torch.Tensor,
    risks: dict[str, RiskEstimate],
    certified: bool,
) -> PathPoint:
    return PathPoint(
        thresholds=list(thresholds),
        **answered_at(records, costs, exit_index),
        risks=risks,
        certified=certified,
    )
