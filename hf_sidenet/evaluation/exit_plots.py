# SPDX-License-Identifier: Apache-2.0
"""Figures of the exits: reliability diagrams, shares along the path, confidences. Readable in grayscale."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from ..io.folder_kinds import FolderKind
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from .bootstrap import Interval
from .exits import EvaluatedPoint, ExitEvaluation
from .plots import PANELS, add_legend, new_figure, plot_accuracy_cost_bands, short_thresholds, tidy
from .quality import ExitQuality, exit_confidences


FIGURES = ("accuracy_cost.png", "reliability.png", "exit_shares.png", "confidences.png")
# Output folder of `hf-sidenet evaluate`: the figures and their data.
EVALUATION = FolderKind("evaluation.json", marks=("checkpoint", "evaluation"), names=FIGURES)
MAX_COLUMNS = 4
PANEL_WIDTH = 3.3  # inches
MAX_TICKS = 24
NUM_CONFIDENCE_BINS = 20
# Neighbors differ in both, so shares can be distinguished without color.
FILLS = ("0.92", "0.72", "0.5", "0.82", "0.62")
HATCHES = ("", "////", "", "....", "xxxx", "\\\\\\\\", "---")
LINES = (("-", "o"), ("--", "^"), (":", "s"))


def save_figures(
    evaluation: ExitEvaluation, records: ExitRecords, directory: str | os.PathLike, title: str
) -> list[Path]:
    """Write `accuracy_cost.png`, `reliability.png`, `exit_shares.png` and `confidences.png`.

    Args:
        evaluation ([`ExitEvaluation`]): evaluation of these records.
        records ([`ExitRecords`]): the test rows.
        directory (`str` or `os.PathLike`): created if it does not exist.
        title (`str`): model and data.

    Returns:
        `list[Path]`: the files, in this order.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the records do not match the evaluation.
    """
    _check_same_rows(evaluation, records)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in FIGURES]
    plot_accuracy_cost_bands(evaluation, paths[0], title)
    plot_reliability(evaluation, paths[1], title)
    plot_exit_shares(evaluation, paths[2], title)
    plot_confidences(evaluation, records, paths[3], title)
    return paths


def plot_reliability(evaluation: ExitEvaluation, path: str | os.PathLike, title: str) -> None:
    """Draw a reliability diagram of each exit, with the number of rows per bin below it (Morisot, arXiv 2007.13512,
    figure 3; here with 15 bins, and also showing the ECE with the paper's 8 bins).

    Args:
        evaluation ([`ExitEvaluation`]): its 15 bins are drawn.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
    """
    num_columns, num_lines = _grid(len(evaluation.exits))
    with new_figure(path, title, 0.7 + PANEL_WIDTH * num_columns, 0.9 + 5.3 * num_lines) as figure:
        ratios = [3, 1] * num_lines
        panels = figure.subplots(2 * num_lines, num_columns, sharex=True, squeeze=False, height_ratios=ratios)
        for number in range(num_lines * num_columns):
            line, column = divmod(number, num_columns)
            diagram, counts = panels[2 * line, column], panels[2 * line + 1, column]
            if number >= len(evaluation.exits):
                diagram.set_axis_off()
                counts.set_axis_off()
                continue
            _draw_reliability(diagram, evaluation.exits[number])
            _draw_counts(counts, evaluation.exits[number])
            counts.tick_params(labelbottom=True)
            counts.set_xlabel("confidence")
            if column == 0:
                diagram.set_ylabel("accuracy (%)")
                counts.set_ylabel("rows")
        add_legend(figure, panels[0, 0])


def plot_exit_shares(evaluation: ExitEvaluation, path: str | os.PathLike, title: str) -> None:
    """Draw the share of rows answered at each exit and, below, the mean cost in the three currencies, at each point of
    the path and, set apart, at the chosen θ and for the oracle.

    Args:
        evaluation ([`ExitEvaluation`]): its path, θ and oracle.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
    """
    curve = evaluation.curve
    # The width on paper of the two bars that are set apart does not depend on the number of points.
    apart = max(1.0, len(curve) / 20)
    places = [*range(len(curve)), len(curve) - 1 + 2 * apart, len(curve) - 1 + 3.2 * apart]
    widths = [1.0] * len(curve) + [apart] * 2
    points = [*curve, evaluation.routed, evaluation.oracle]
    step = max(1, math.ceil(len(curve) / MAX_TICKS))
    ticks = {i: short_thresholds(cast("list[float]", curve[i].thresholds)) for i in range(0, len(curve), step)}
    chosen = f"chosen: {short_thresholds(evaluation.thresholds)}"
    with new_figure(path, title, 10, 6.4) as figure:
        shares, costs = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        _draw_shares(shares, places, widths, points, [exit.name for exit in evaluation.exits])
        for number, ((currency, name), (linestyle, marker)) in enumerate(zip(PANELS.items(), LINES, strict=True)):
            values = [getattr(point, currency).value for point in points]
            style = {"color": "0.1", "marker": marker, "markersize": 5, "markerfacecolor": "white"}
            # Markers alternate, so that close lines do not hide each other's.
            turns = (number * step // 3, step)
            costs.plot(places[:-2], values[:-2], linestyle=linestyle, markevery=turns, label=name, **style)
            costs.plot(places[-2:], values[-2:], linestyle="none", **style)
        costs.set_xticks([*ticks, *places[-2:]], [*ticks.values(), chosen, "oracle"], rotation=90, fontsize=8)
        costs.set_xlabel("θ along the path")
        costs.set_ylabel("mean cost per row,\nfraction of the MainNet's")
        for axes, options in ((shares, {"title": "answered at", "reverse": True}), (costs, {})):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, **options)
        tidy(costs)
        costs.set_ylim(bottom=0)


def plot_confidences(evaluation: ExitEvaluation, records: ExitRecords, path: str | os.PathLike, title: str) -> None:
    """Draw histograms of each exit's confidence, for correct (upward) and wrong (downward) answers over all rows, and
    its θ. Rows whose logits are NaN are left out.

    Args:
        evaluation ([`ExitEvaluation`]): its θ and temperatures.
        records ([`ExitRecords`]): the same rows.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the records do not match the evaluation.
    """
    _check_same_rows(evaluation, records)
    num_columns, num_lines = _grid(records.num_exits)
    with new_figure(path, title, 0.9 + PANEL_WIDTH * num_columns, 0.9 + 3.4 * num_lines) as figure:
        panels = figure.subplots(num_lines, num_columns, sharex=True, sharey=True, squeeze=False)
        for number, axes in enumerate(panels.flat):
            if number >= records.num_exits:
                axes.set_axis_off()
                continue
            _draw_confidences(axes, evaluation, records, number)
        for axes in panels[:, 0]:
            axes.set_ylabel("rows (%), logarithmic above 1\n← wrong      right →")
        # All panels share this axis. On a linear scale the few wrong answers would be invisible.
        panels[0, 0].set_yscale("symlog", linthresh=1)
        panels[0, 0].set_ylim(-110, 110)
        panels[0, 0].set_yticks([-100, -10, -1, 0, 1, 10, 100])
        panels[0, 0].yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        add_legend(figure, panels[0, 0])


def _check_same_rows(evaluation: ExitEvaluation, records: ExitRecords) -> None:
    if (len(records), records.num_exits) != (evaluation.num_rows, len(evaluation.exits)):
        raise ArgumentError(
            "records",
            f"must be those of the evaluation, {evaluation.num_rows} rows and "
            f"{len(evaluation.exits)} exits, got {len(records)} rows and {records.num_exits} "
            "exits",
        )


def _grid(number: int) -> tuple[int, int]:
    """Return the numbers of columns and lines for a number of panels."""
    num_columns = min(number, MAX_COLUMNS)
    return num_columns, math.ceil(number / num_columns)


def _draw_reliability(axes, exit: ExitQuality) -> None:
    filled = [b for b in exit.standard_ece.bins if b.count > 0]
    width = filled[0].high - filled[0].low if filled else 1.0
    style = {"width": width, "align": "edge", "edgecolor": "0.2", "linewidth": 0.8}
    axes.bar([b.low for b in filled], [100 * b.accuracy for b in filled], color="0.8", label="accuracy", **style)
    axes.plot([0, 1], [0, 100], color="0.2", linestyle="--", linewidth=1, label="perfectly calibrated")
    means = [(b.confidence, 100 * b.accuracy) for b in filled]
    places = {"linestyle": "none", "marker": "o", "markersize": 4, "color": "black"}
    axes.plot([x for x, _ in means], [y for _, y in means], label="at the bin's mean confidence", **places)
    lines = [
        f"ECE, 15 bins over 0-1: {_short(exit.standard_ece.error)}",
        f"   if calibrated: {_short(exit.standard_ece.calibrated)}",
        f"ECE, 8 bins over 0.2-1: {_short(exit.paper_ece.error)}",
        f"   {exit.paper_ece.num_below:,} rows below 0.2",
    ]
    # Above the panel: inside, it would hide bars of some exits.
    axes.text(0, 1.02, "\n".join(lines), transform=axes.transAxes, va="bottom", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 102))
    axes.set_title(exit.name, pad=54)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)


def _draw_counts(axes, exit: ExitQuality) -> None:
    bins = exit.standard_ece.bins
    style = {"align": "edge", "color": "0.55", "edgecolor": "0.2", "linewidth": 0.8}
    axes.bar([b.low for b in bins], [b.count for b in bins], width=bins[0].high - bins[0].low, **style)
    axes.grid(color="0.88", axis="y")
    axes.set_axisbelow(True)


def _short(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _draw_shares(
    axes,
    places: Sequence[float],
    widths: Sequence[float],
    points: Sequence[EvaluatedPoint],
    names: Sequence[str],
) -> None:
    bottom = [0.0] * len(points)
    for number, name in enumerate(names):
        heights = [100 * point.shares[number].value for point in points]
        axes.bar(
            places,
            heights,
            width=widths,
            bottom=bottom,
            label=name,
            facecolor=FILLS[number % len(FILLS)],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="0.2",
            linewidth=0.4,
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylim(0, 100)
    axes.set_ylabel("rows (%)")


def _draw_confidences(axes, evaluation: ExitEvaluation, records: ExitRecords, number: int) -> None:
    logits = records.exit_logits[:, number]
    confidences = exit_confidences(records, number, evaluation.temperatures[number])
    correct, known = records.correct(logits), ~logits.isnan().any(-1)
    lowest = 1 / logits.shape[1]
    edges = torch.linspace(lowest, 1, NUM_CONFIDENCE_BINS + 1).tolist()
    style = {"width": edges[1] - edges[0], "align": "edge", "edgecolor": "0.2", "linewidth": 0.6}
    for rows, sign, label, fill, hatch in (
        (correct & known, 1, "right answers", "0.85", ""),
        (~correct & known, -1, "wrong answers", "0.55", "////"),
    ):
        counts = confidences[rows].float().clamp(lowest, 1).histc(NUM_CONFIDENCE_BINS, lowest, 1)
        heights = (sign * 100 * counts / len(records)).tolist()
        axes.bar(edges[:-1], heights, label=label, facecolor=fill, hatch=hatch, **style)
    axes.axhline(0, color="black", linewidth=0.8)
    title = evaluation.exits[number].name
    if number < len(evaluation.thresholds):
        theta = evaluation.thresholds[number]
        axes.axvline(min(theta, 1.0), color="black", linestyle="--", linewidth=1.5, label="θ: rows above it exit")
        title += f", θ = {theta:.10g}"
    axes.set_title(title)
    axes.set_xlabel("confidence")
    axes.set_xlim(lowest - 0.02, 1.02)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)
