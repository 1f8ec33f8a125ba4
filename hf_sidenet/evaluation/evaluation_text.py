# SPDX-License-Identifier: Apache-2.0
"""An [`~exits.ExitEvaluation`] as Markdown for people: in percent, with intervals; a dash where nothing is defined."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from ..io.tables import markdown_table
from .bootstrap import Interval
from .curves import format_thresholds
from .recalls import recall_introduction, recall_rows, recall_warnings


if TYPE_CHECKING:
    from .exits import EvaluatedPoint, ExitEvaluation


def evaluation_text(evaluation: "ExitEvaluation") -> str:
    """Five tables with a sentence each: routed, classes, exits, calibration, curve."""
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
    """How far the MainNet's time moved while it was measured, in words that follow others in brackets."""
    if len(rounds) < 2:
        return ""
    times = [each[-1] for each in rounds]
    return f"; {min(times):.3f} to {max(times):.3f} in {len(times)} rounds"


def percent(interval: Interval | None, digits: int = 2) -> str:
    """`"84.00 [82.10, 86.00]"`, or a dash."""
    return _format(interval, 100, digits)


def _fraction(interval: Interval | None, digits: int = 3) -> str:
    return _format(interval, 1, digits)


def _format(interval: Interval | None, scale: float, digits: int) -> str:
    if interval is None or math.isnan(interval.value):
        return "–"
    # Adding 0 makes -0.0, which prints as "-0.00", a plain 0.
    value, low, high = (
        f"{round(scale * x, digits) + 0.0:.{digits}f}" for x in (interval.value, interval.low, interval.high)
    )
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


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
            # Only the oracle has none.
            format_thresholds(cast("list[float]", point.thresholds)),
            *_accuracy_and_costs(point),
            *(f"{100 * share.value:.1f}" for share in point.shares),
        ]
        for point in evaluation.curve
    ]
    return markdown_table(header, rows)
