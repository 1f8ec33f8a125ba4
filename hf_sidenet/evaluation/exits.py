# SPDX-License-Identifier: Apache-2.0
"""Everything that records and costs say about a model with SideNets at its θ, each number with its interval."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..measurement.costs import ExitCosts
from ..measurement.metrics import check_temperatures
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from ..models.exit_rule import answers
from .bootstrap import Interval, Statistic, bootstrap_intervals
from .curves import DEFAULT_THRESHOLDS, sweep
from .evaluation_text import evaluation_text
from .quality import ExitQuality, ensemble_correct, exit_quality, exit_statistics
from .recalls import ClassRecall, class_recalls
from .times import time_intervals
from .weighted import weighted_means


# Costs that do not change when they are measured again.
COUNTED = ("params", "flops")


@dataclass(frozen=True)
class EvaluatedPoint:
    """One way to answer the rows, with intervals. All values are fractions, costs those of the plain MainNet.

    Args:
        thresholds (`list[float]`, *optional*): θ of each SideNet; `None` for the oracle, which has none.
        accuracy (`Interval`): fraction of rows answered rightly.
        accuracy_drop (`Interval`): the reference's accuracy minus this one, on the same resamples.
        shares (`list[Interval]`): fraction of rows answered at each exit.
        params (`Interval`): mean number of parameters used per row.
        flops (`Interval`): mean floating-point operations per row.
        milliseconds (`Interval`):
            Mean time per row. Its interval covers other rows and other rounds of timing; none where there were fewer
            than [`MIN_ROUNDS`].
    """

    thresholds: list[float] | None
    accuracy: Interval
    accuracy_drop: Interval
    shares: list[Interval]
    params: Interval
    flops: Interval
    milliseconds: Interval


@dataclass(frozen=True)
class ExitEvaluation:
    """A model with SideNets on test rows: routed at θ, exit by exit, and along a path of θ.

    Intervals are percentile bootstrap intervals over the rows: they say how the numbers would move on other rows of
    the same kind, not with another training run. They are no guarantee for θ.

    Args:
        thresholds (`list[float]`): θ of each SideNet.
        temperatures (`list[float]`): one per exit.
        num_rows (`int`): test rows.
        num_resamples (`int`): bootstrap resamples.
        level (`float`): of the intervals.
        seed (`int`): of the resamples.
        costs ([`ExitCosts`]): what an answer at each exit costs.
        reference_accuracy (`Interval`): of the classifier to compare with, `records.mainnet_logits`.
        routed (`EvaluatedPoint`): at `thresholds`.
        oracle (`EvaluatedPoint`):
            Each row leaves at the first exit that is right, or at the first exit where none is: what a perfect
            confidence would give.
        exits (`list[ExitQuality]`): the SideNets, then the MainNet.
        ensemble_accuracy (`Interval`): of the mean of all exits' probabilities.
        curve (`list[EvaluatedPoint]`): along the path.
        recalls (`list[ClassRecall]`): of each class that has rows, at `thresholds`.
    """

    thresholds: list[float]
    temperatures: list[float]
    num_rows: int
    num_resamples: int
    level: float
    seed: int
    costs: ExitCosts
    reference_accuracy: Interval
    routed: EvaluatedPoint
    oracle: EvaluatedPoint
    exits: list[ExitQuality]
    ensemble_accuracy: Interval
    curve: list[EvaluatedPoint]
    recalls: list[ClassRecall]

    @classmethod
    def from_records(
        cls,
        records: ExitRecords,
        costs: ExitCosts,
        *,
        thresholds: list[float],
        temperatures: list[float] | None = None,
        path: Sequence[Sequence[float]] | None = None,
        names: Sequence[str] | None = None,
        num_resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ) -> "ExitEvaluation":
        """Evaluate recorded answers. About a second for 3,000 rows, 4 exits and 100 points.

        Args:
            records ([`ExitRecords`]): the test rows.
            costs ([`ExitCosts`]): of the same model.
            thresholds (`list[float]`): θ of each SideNet, chosen on other rows.
            temperatures (`list[float]`, *optional*): one per exit; by default 1 each.
            path (`Sequence[Sequence[float]]`, *optional*):
                The points of the curve, θ of each SideNet; by default 19 values from 0 to 1, one for all SideNets.
            names (`Sequence[str]`, *optional*): of the classes, by index; by default their numbers.
            num_resamples (`int`, *optional*, defaults to 1000): of the bootstrap, and of the calibrated model.
            level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside an interval.
            seed (`int`, *optional*, defaults to 0): the same seed gives the same intervals.

        Raises:
            ValueError: there are no rows, an argument is impossible, or records and costs do not fit together.
        """
        if len(records) == 0:
            raise ArgumentError("records", "must hold at least one row, got none")
        temperatures = check_temperatures(temperatures, records.num_exits)
        if path is None:
            path = [[threshold] * (records.num_exits - 1) for threshold in DEFAULT_THRESHOLDS]
        # Before anything is drawn: `sweep` checks θ and that the costs are of this model.
        settings = [point.thresholds for point in sweep(records, costs, [thresholds, *path], temperatures)]
        indices = [records.route(setting, temperatures) for setting in settings]
        answered_at = indices[0]
        indices.append(oracle_index(records))
        reference = records.correct(records.mainnet_logits)
        together = ensemble_correct(records, list(range(records.num_exits)), temperatures)
        statistics: dict[str | tuple[int, str], Statistic] = {
            "points": _point_statistic(records, costs, indices, reference),
            "reference": weighted_means(reference[:, None]),
            "ensemble": weighted_means(together[:, None]),
        }
        for i in range(records.num_exits):
            of_exit = exit_statistics(records, i, temperatures, answered_at)
            statistics.update({(i, name): statistic for name, statistic in of_exit.items()})
        found = bootstrap_intervals(statistics, len(records), num_resamples=num_resamples, level=level, seed=seed)
        times = time_intervals(costs, indices, records.num_exits, num_resamples=num_resamples, level=level, seed=seed)
        routed, *curve, oracle = _points([*settings, None], found["points"], times, records.num_exits)
        exits = [
            exit_quality(
                records,
                i,
                temperatures[i],
                answered_at,
                {key[1]: intervals[0] for key, intervals in found.items() if key[0] == i},
                num_samples=num_resamples,
                level=level,
                seed=seed,
            )
            for i in range(records.num_exits)
        ]
        return cls(
            thresholds=settings[0],
            temperatures=temperatures,
            num_rows=len(records),
            num_resamples=num_resamples,
            level=level,
            seed=seed,
            costs=costs,
            reference_accuracy=found["reference"][0],
            routed=routed,
            oracle=oracle,
            exits=exits,
            ensemble_accuracy=found["ensemble"][0],
            curve=curve,
            recalls=class_recalls(records, settings[0], temperatures, names, level=level),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers for JSON, fractions throughout; `None` for NaN."""
        return _plain(asdict(self))

    def text(self) -> str:
        """Markdown tables, in percent with intervals, without a title."""
        return evaluation_text(self)


def oracle_index(records: ExitRecords) -> torch.Tensor:
    """The first exit that is right in each row, 0 where none is: int64 of shape `(num_rows,)`."""
    right = torch.stack([records.correct(logits) for logits in records.exit_logits.unbind(1)], 1)
    # Which of equal values `max` finds is open: falling weights make the first right exit the largest.
    first = (right * torch.arange(records.num_exits, 0, -1)).max(1).indices
    return torch.where(right.any(1), first, 0)


def _point_statistic(
    records: ExitRecords, costs: ExitCosts, indices: list[torch.Tensor], reference: torch.Tensor
) -> Statistic:
    """For each way to answer: accuracy, accuracy drop, share of each exit, mean parameters and FLOPs."""
    num_exits = records.num_exits
    right = [records.correct(answers(records.exit_logits, index)) for index in indices]
    at_exits = torch.stack(indices, 1)[..., None] == torch.arange(num_exits)  # (num_rows, num_points, num_exits)
    columns = torch.cat([torch.stack(right, 1)[..., None], at_exits], 2)
    means = weighted_means(torch.cat([reference[:, None], columns.flatten(1)], 1))
    fractions = torch.tensor([costs.fractions(currency) for currency in COUNTED], dtype=torch.float64)

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        reference_accuracy, rest = means(weights).split([1, len(indices) * (1 + num_exits)], 1)
        accuracy, shares = rest.unflatten(1, (len(indices), 1 + num_exits)).split([1, num_exits], 2)
        drop = reference_accuracy[..., None] - accuracy
        return torch.cat([accuracy, drop, shares, shares @ fractions.T], 2).flatten(1)

    return statistic


def _points(
    settings: list[list[float] | None], intervals: list[Interval], times: list[Interval], num_exits: int
) -> list[EvaluatedPoint]:
    width = 2 + num_exits + len(COUNTED)
    points = []
    for number, (setting, time) in enumerate(zip(settings, times, strict=True)):
        accuracy, drop, *rest = intervals[number * width : (number + 1) * width]
        costs = dict(zip(COUNTED, rest[num_exits:], strict=True))
        points.append(EvaluatedPoint(setting, accuracy, drop, rest[:num_exits], **costs, milliseconds=time))
    return points


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
