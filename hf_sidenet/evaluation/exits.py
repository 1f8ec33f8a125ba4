# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model with SideNets at its θ, from records and costs, each number with its interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch

from ..io.json import strict
from ..io.tables import interval_text, markdown_table
from ..measurement.costs import ExitCosts
from ..measurement.metrics import check_temperatures
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from ..models.exit_rule import answers
from .bootstrap import Interval, Statistic, bootstrap_intervals, percentiles, resample_weights, weighted_means
from .curves import DEFAULT_THRESHOLDS, format_thresholds, sweep
from .quality import ExitQuality, ensemble_correct, exit_quality, exit_statistics
from .recalls import ClassRecall, class_recalls, recall_introduction, recall_rows, recall_warnings


# Fewer rounds are too few to resample.
MIN_ROUNDS = 3


def time_intervals(
    costs: ExitCosts,
    indices: Sequence[torch.Tensor],
    num_exits: int,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return the mean time per row of several ways to answer the same rows, as a fraction of the plain MainNet's.

    Args:
        costs ([`ExitCosts`]): costs with their rounds of timing.
        indices (`Sequence[torch.LongTensor]`, each of shape `(num_rows,)`): exit that answers each row.
        num_exits (`int`): number of exits, including the MainNet.
        num_resamples (`int`, *optional*, defaults to 1000): number of resamples of rows and rounds.
        level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside an interval.
        seed (`int`, *optional*, defaults to 0): seed of the draws.

    Returns:
        `list[Interval]`: one per item of `indices`; the ends are NaN with fewer than [`MIN_ROUNDS`] rounds.
    """
    at_exits = torch.stack(list(indices), 1)[..., None] == torch.arange(num_exits)  # (num_rows, num_points, num_exits)
    shares = weighted_means(at_exits.flatten(1))
    num_rows = len(at_exits)
    fractions = torch.tensor(costs.fractions("milliseconds"), dtype=torch.float64)
    ones = torch.ones(1, num_rows, dtype=torch.float64)
    values = (shares(ones).unflatten(1, at_exits.shape[1:]) @ fractions)[0].tolist()
    if len(costs.rounds) < MIN_ROUNDS:
        return [Interval(value, torch.nan, torch.nan) for value in values]
    rounds = torch.tensor(costs.rounds, dtype=torch.float64)  # (num_rounds, num_exits + 1)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for weights in resample_weights(num_rows, num_resamples, seed):
        drawn = torch.randint(len(rounds), (len(weights), len(rounds)), generator=generator)
        times = rounds[drawn].quantile(0.5, dim=1)  # (resamples, num_exits + 1), medians, as reported
        of_exits = times[:, :-1] / times[:, -1:]
        found.append((shares(weights).unflatten(1, at_exits.shape[1:]) * of_exits[:, None]).sum(-1))
    columns = torch.cat(found).T.contiguous()
    return [Interval(value, *percentiles(column, level)) for value, column in zip(values, columns, strict=True)]


# Costs that do not change when they are measured again.
COUNTED = ("params", "flops")


@dataclass(frozen=True)
class EvaluatedPoint:
    """One way to answer the rows, with intervals. All values are fractions; costs are relative to the plain MainNet.

    Args:
        thresholds (`list[float]`, *optional*): θ of each SideNet; `None` for the oracle.
        accuracy (`Interval`): fraction of rows answered correctly.
        accuracy_drop (`Interval`): the reference's accuracy minus this one, on the same resamples.
        shares (`list[Interval]`): fraction of rows answered at each exit.
        params (`Interval`): mean number of parameters used per row.
        flops (`Interval`): mean floating-point operations per row.
        milliseconds (`Interval`):
            Mean time per row. Its interval covers other rows and other rounds of timing; NaN with fewer than
            [`MIN_ROUNDS`] rounds.
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
    """Evaluation of a model with SideNets on test rows: routed at θ, exit by exit, and along a path of θ.

    Intervals are percentile bootstrap intervals over the rows: they show how the numbers would vary on other rows of
    the same kind, not with another training run. They do not guarantee anything about θ.

    Args:
        thresholds (`list[float]`): θ of each SideNet.
        temperatures (`list[float]`): one per exit.
        num_rows (`int`): number of test rows.
        num_resamples (`int`): number of bootstrap resamples.
        level (`float`): level of the intervals.
        seed (`int`): seed of the resamples.
        costs ([`ExitCosts`]): cost of an answer at each exit.
        reference_accuracy (`Interval`): accuracy of the classifier to compare with, `records.mainnet_logits`.
        routed (`EvaluatedPoint`): routed at `thresholds`.
        oracle (`EvaluatedPoint`):
            Each row exits at the first exit whose answer is correct, or at the first exit if there is none, as with a
            perfect confidence.
        exits (`list[ExitQuality]`): the SideNets, then the MainNet.
        ensemble_accuracy (`Interval`): accuracy of the mean of all exits' probabilities.
        curve (`list[EvaluatedPoint]`): points along the path.
        recalls (`list[ClassRecall]`): recall of each class that has rows, at `thresholds`.
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
        """Evaluate recorded answers. Takes about a second for 3,000 rows, 4 exits and 100 points.

        Args:
            records ([`ExitRecords`]): the test rows.
            costs ([`ExitCosts`]): costs of the same model.
            thresholds (`list[float]`): θ of each SideNet, chosen on other rows.
            temperatures (`list[float]`, *optional*): one per exit; defaults to 1 each.
            path (`Sequence[Sequence[float]]`, *optional*):
                Points of the curve, θ of each SideNet; defaults to 19 values from 0 to 1, the same for all SideNets.
            names (`Sequence[str]`, *optional*): names of the classes; defaults to their indices.
            num_resamples (`int`, *optional*, defaults to 1000):
                Number of bootstrap resamples, and of simulations of a calibrated model.
            level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside an interval.
            seed (`int`, *optional*, defaults to 0): the same seed gives the same intervals.

        Raises:
            ValueError: there are no rows, an argument is invalid, or records and costs do not match.
        """
        if len(records) == 0:
            raise ArgumentError("records", "must hold at least one row, got none")
        temperatures = check_temperatures(temperatures, records.num_exits)
        if path is None:
            path = [[threshold] * (records.num_exits - 1) for threshold in DEFAULT_THRESHOLDS]
        # Before any resampling: `sweep` checks θ and the costs.
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
        """Return everything as plain dicts, lists and numbers for JSON; fractions throughout, `None` for NaN."""
        return strict(asdict(self))

    def text(self) -> str:
        """Return Markdown tables, in percent with intervals, without a title."""
        return evaluation_text(self)


def oracle_index(records: ExitRecords) -> torch.Tensor:
    """Return the first correct exit of each row, 0 if there is none: int64 of shape `(num_rows,)`."""
    right = torch.stack([records.correct(logits) for logits in records.exit_logits.unbind(1)], 1)
    # `max` may return any of several equal values: falling weights make the first correct exit the largest.
    first = (right * torch.arange(records.num_exits, 0, -1)).max(1).indices
    return torch.where(right.any(1), first, 0)


def _point_statistic(
    records: ExitRecords, costs: ExitCosts, indices: list[torch.Tensor], reference: torch.Tensor
) -> Statistic:
    """Return a statistic: accuracy, accuracy drop, share of each exit, mean parameters and FLOPs of each way."""
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


def evaluation_text(evaluation: "ExitEvaluation") -> str:
    """Return five tables, each with an introduction: routed, classes, exits, calibration, curve."""
    costs = evaluation.costs
    recalls = [asdict(each) for each in evaluation.recalls]
    recall_header, *recall_lines = recall_rows(recalls)
    theta = format_thresholds(evaluation.thresholds)
    return "\n\n".join(
        [
            f"{evaluation.num_rows:,} rows. In brackets: {100 * evaluation.level:g} % percentile bootstrap intervals "
            f"over rows ({evaluation.num_resamples:,} resamples, seed {evaluation.seed}).",
            f"MainNet alone: {costs.mainnet_params:,} parameters, {costs.mainnet_flops / 1e6:.1f} MFLOP and "
            f"{costs.mainnet_milliseconds:.3f} ms per row ({costs.num_threads} threads, {costs.device}"
            f"{rounds_text(costs.rounds)}). Costs below are fractions of these.",
            f"Routed at θ = {theta}. The oracle leaves at the first exit that is right:",
            _routed_table(evaluation),
            recall_introduction(recalls, evaluation.level),
            markdown_table(recall_header, recall_lines),
            *recall_warnings(recalls),
            "Each exit by itself. Overthinking: rows that the SideNet gets right and the MainNet wrong:",
            _exit_table(evaluation),
            f"Mean of the probabilities of all exits: accuracy {percent(evaluation.ensemble_accuracy)} %.",
            "Calibration (ECE). Calibrated: what a perfectly calibrated model with the same confidences would show. "
            "On few rows an ECE and its interval lie too high, so compare with that:",
            _calibration_table(evaluation),
            "Along the path of θ:",
            _curve_table(evaluation),
        ]
    )


def rounds_text(rounds: Sequence[Sequence[float]]) -> str:
    """Return the range of the MainNet's time over the rounds, to be appended to text in brackets."""
    if len(rounds) < 2:
        return ""
    times = [each[-1] for each in rounds]
    return f"; {min(times):.3f} to {max(times):.3f} in {len(times)} rounds"


def percent(interval: Interval | None, digits: int = 2) -> str:
    """Return `"84.00 [82.10, 86.00]"`, or a dash."""
    return _shown(interval, 100, digits)


def _fraction(interval: Interval | None, digits: int = 3) -> str:
    return _shown(interval, 1, digits)


def _shown(interval: Interval | None, scale: float, digits: int) -> str:
    ends = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
    return interval_text(*ends, scale=scale, digits=digits)


def _routed_table(evaluation: "ExitEvaluation") -> str:
    header = ["", "accuracy %", "drop, points", "params", "FLOPs", "ms"]
    rows = [
        ["MainNet alone", percent(evaluation.reference_accuracy), "0", "1", "1", "1"],
        ["routed", *_accuracy_and_costs(evaluation.routed)],
        ["oracle", *_accuracy_and_costs(evaluation.oracle)],
    ]
    return markdown_table(header, rows)


def _accuracy_and_costs(point: "EvaluatedPoint") -> list[str]:
    costs = [_fraction(point.params), _fraction(point.flops), _fraction(point.milliseconds)]
    return [percent(point.accuracy), percent(point.accuracy_drop), *costs]


def _exit_table(evaluation: "ExitEvaluation") -> str:
    header = ["exit", "answers % of rows", "right of these %", "right of all rows %", "AUROC", "overthinking %"]
    rows = [
        [
            exit.name,
            percent(share, 1),
            percent(exit.answered_accuracy),
            percent(exit.accuracy),
            _fraction(exit.auroc),
            percent(exit.overthinking),
            percent(exit.ensemble_accuracy),
        ]
        for exit, share in zip(evaluation.exits, evaluation.routed.shares, strict=True)
    ]
    return markdown_table([*header, "with the MainNet %"], rows)


def _calibration_table(evaluation: "ExitEvaluation") -> str:
    header = ["exit", "ECE %, 8 bins over 0.2-1", "calibrated %", "rows below 0.2", "ECE %, 15 bins", "calibrated %"]
    rows = [
        [
            exit.name,
            percent(exit.paper_ece.error),
            percent(exit.paper_ece.calibrated),
            f"{exit.paper_ece.num_below:,}",
            percent(exit.standard_ece.error),
            percent(exit.standard_ece.calibrated),
        ]
        for exit in evaluation.exits
    ]
    return markdown_table(header, rows)


def _curve_table(evaluation: "ExitEvaluation") -> str:
    names = [exit.name for exit in evaluation.exits]
    header = ["θ", "accuracy %", "drop, points", "params", "FLOPs", "ms", *(f"{name} %" for name in names)]
    rows = [
        [
            # Only the oracle has no thresholds.
            format_thresholds(cast("list[float]", point.thresholds)),
            *_accuracy_and_costs(point),
            *(f"{100 * share.value:.1f}" for share in point.shares),
        ]
        for point in evaluation.curve
    ]
    return markdown_table(header, rows)
