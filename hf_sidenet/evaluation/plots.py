# SPDX-License-Identifier: Apache-2.0
"""Figures. The only module that imports matplotlib, inside functions, so the package works without it.

Figures are built without pyplot: no window, no choice of backend, no state shared with the caller's plots.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from ..io.files import replacing
from ..models.errors import ArgumentError
from ..optional import require
from .bootstrap import Interval
from .curves import CurvePoint, format_thresholds
from .exits import EvaluatedPoint, ExitEvaluation


# Currency → label of its axis.
PANELS = {"params": "parameters", "flops": "FLOPs", "milliseconds": "time"}
SIDENET_MARKERS = "^vDPX<>"
MARKERS = "os" + SIDENET_MARKERS
X_ROOM = 1.18  # room right of the most expensive point, for its θ
MAX_MARKED = 8
MIN_DISTANCE = 0.11  # between labeled points, as a fraction of the panel
LETTER_WIDTH, TEXT_HEIGHT = 0.016, 0.05  # of the label at a point, as fractions of the panel
MAX_LEGEND = 6  # entries in a row


def plot_accuracy_cost(
    curve: Sequence[CurvePoint], fixed: Sequence[CurvePoint], path: str | os.PathLike, title: str
) -> None:
    """Draw accuracy against mean cost per row in three panels: parameters, FLOPs, milliseconds.

    Args:
        curve (`Sequence[CurvePoint]`): points of [`~curves.sweep`], ordered by θ; some are labeled with θ.
        fixed (`Sequence[CurvePoint]`): points of [`~curves.fixed_points`], the MainNet's first.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no points on the curve.
    """
    if not curve:
        raise ArgumentError("curve", "must hold at least one point, got none")
    with _three_panels(path, title, [*curve, *fixed]) as panels:
        for axes, currency in zip(panels, PANELS, strict=True):
            _draw_panel(axes, curve, fixed, currency)
        # After drawing all panels: they share their axes, whose limits depend on all data.
        for axes, currency in zip(panels, PANELS, strict=True):
            _write_thresholds(axes, curve, currency)


def plot_accuracy_cost_bands(evaluation: ExitEvaluation, path: str | os.PathLike, title: str) -> None:
    """Draw accuracy against mean cost with bootstrap bands, in the same three panels: the path of θ, the chosen θ, the
    MainNet alone and the oracle (Morisot, arXiv 2007.13512, figures 2 and 4).

    Args:
        evaluation ([`ExitEvaluation`]): some points of its curve are labeled with θ.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
    """
    points = [*evaluation.curve, evaluation.routed, evaluation.oracle]
    mainnet = Interval(1.0, 1.0, 1.0)
    chosen = f"chosen θ = {short_thresholds(evaluation.thresholds)}"
    oracle, routed, reference = evaluation.oracle, evaluation.routed, evaluation.reference_accuracy
    with _three_panels(path, title, points) as panels:
        for axes, currency in zip(panels, PANELS, strict=True):
            _draw_band(axes, evaluation, currency)
            axes.axhline(100 * reference.value, color="0.35", linestyle=(0, (1, 2)), linewidth=1, zorder=1)
            _draw_mark(axes, mainnet, reference, marker="s", label="MainNet alone", markerfacecolor="white")
            _draw_mark(axes, getattr(oracle, currency), oracle.accuracy, marker="D", label="oracle")
            _draw_mark(axes, getattr(routed, currency), routed.accuracy, marker="*", label=chosen, markersize=15)
            tidy(axes)
        # After drawing all panels: they share their axes, whose limits depend on all data.
        for axes, currency in zip(panels, PANELS, strict=True):
            marks = [(mainnet, reference), *((getattr(p, currency), p.accuracy) for p in (routed, oracle))]
            _write_thresholds(axes, evaluation.curve, currency, marks)


def plot_comparison(curves: Mapping[str, Sequence[CurvePoint]], path: str | os.PathLike, title: str) -> None:
    """Draw several models or training methods, a line each, in the same three panels; points are labeled with `name`.

    Args:
        curves (`Mapping[str, Sequence[CurvePoint]]`): name in the legend → points in plotting order.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): what is compared, on which data.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no points.
    """
    everything = [point for points in curves.values() for point in points]
    if not everything:
        raise ArgumentError("curves", "must hold at least one point, got none")
    with _three_panels(path, title, everything) as panels:
        for axes, currency in zip(panels, PANELS, strict=True):
            for number, (label, points) in enumerate(curves.items()):
                places = [(getattr(point, currency), 100 * point.accuracy) for point in points]
                marker = MARKERS[number % len(MARKERS)]
                axes.plot(*zip(*places, strict=True), marker=marker, markersize=4, linewidth=1.2, label=label)
                for point, place in zip(points, places, strict=True):
                    axes.annotate(point.name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)
            tidy(axes)


@contextmanager
def _three_panels(path: str | os.PathLike, title: str, points: Sequence[CurvePoint | EvaluatedPoint]) -> Iterator[Any]:
    """Yield three axes to draw on; on exit add labels and a legend and write the figure."""
    with new_figure(path, title, 13, 4.6) as figure:
        panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
        panels[0].set_xlim(0, X_ROOM * max(_value(getattr(point, name)) for point in points for name in PANELS))
        for axes, quantity in zip(panels, PANELS.values(), strict=True):
            axes.set_xlabel(f"{quantity} per row, fraction of the MainNet's")
        yield panels
        panels[0].set_ylabel("accuracy (%)")
        add_legend(figure, panels[0])


@contextmanager
def new_figure(path: str | os.PathLike, title: str, width: float, height: float) -> Iterator[Any]:
    """Yield a figure to draw on; write it on exit.

    Args:
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): title over all panels.
        width (`float`): width in inches.
        height (`float`): height in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def add_legend(figure, axes) -> None:
    """Add one legend below all panels, with the entries of `axes`."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), MAX_LEGEND), frameon=False)


def _value(number: float | Interval) -> float:
    return number.value if isinstance(number, Interval) else number


def _draw_panel(axes, curve: Sequence[CurvePoint], fixed: Sequence[CurvePoint], currency: str) -> None:
    x = [getattr(point, currency) for point in curve]
    y = [100 * point.accuracy for point in curve]
    axes.plot(x, y, color="0.15", marker="o", markersize=3.5, linewidth=1.5, label="routed, θ as written")
    for number, point in enumerate(fixed):
        marker, face = ("s", "white") if number == 0 else (SIDENET_MARKERS[(number - 1) % len(SIDENET_MARKERS)], "0.6")
        axes.plot(
            getattr(point, currency),
            100 * point.accuracy,
            linestyle="none",
            marker=marker,
            markersize=9,
            markerfacecolor=face,
            markeredgecolor="black",
            label=point.name,
            zorder=3,
        )
    tidy(axes)


def _draw_band(axes, evaluation: ExitEvaluation, currency: str) -> None:
    # Costs along a path may go up and down; a band needs them sorted.
    curve = sorted(evaluation.curve, key=lambda point: getattr(point, currency).value)
    x = [getattr(point, currency).value for point in curve]
    value, low, high = ([100 * getattr(point.accuracy, end) for point in curve] for end in ("value", "low", "high"))
    band = f"{100 * evaluation.level:g} % interval"
    axes.fill_between(x, low, high, facecolor="0.86", edgecolor="0.6", linewidth=0.6, label=band, zorder=1)
    axes.plot(x, value, color="0.15", marker="o", markersize=3.5, linewidth=1.5, label="routed, θ as written")


def _draw_mark(axes, x: Interval, y: Interval, label: str, **style) -> None:
    """Draw a point with error bars, clipped at 0: a percentile interval may not contain its own value."""
    bars = [
        [[max(0.0, scale * (end.value - end.low))], [max(0.0, scale * (end.high - end.value))]]
        for end, scale in ((x, 1), (y, 100))
    ]
    place = (x.value, 100 * y.value)
    axes.errorbar(*place, bars[1], bars[0], fmt="none", ecolor="black", elinewidth=1, capsize=3, zorder=3)
    style = {"linestyle": "none", "markersize": 8, "markerfacecolor": "0.6", "markeredgecolor": "black", **style}
    axes.plot(*place, label=label, zorder=4, **style)


def tidy(axes) -> None:
    """Add a grid behind the data, and room above and below."""
    axes.margins(y=0.12)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)


def _write_thresholds(
    axes,
    curve: Sequence[CurvePoint | EvaluatedPoint],
    currency: str,
    marks: Sequence[tuple[Interval, Interval]] = (),
) -> None:
    """Label points of the curve with θ where labels overlap neither each other nor the marks (cost, accuracy)."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    places = [(_value(getattr(point, currency)), 100 * _value(point.accuracy)) for point in curve]
    inside = [((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in places]
    taken = []
    for x, y in marks:
        middle, low, high = ((end - left) / (right - left) for end in (x.value, x.low, x.high))
        taken.append((min(low, middle - 0.02), (100 * y.low - bottom) / (top - bottom)))
        taken[-1] += (max(high, middle + 0.02), (100 * y.high - bottom) / (top - bottom))
    for i in spread_indices(inside):
        # Only the oracle has no thresholds.
        text = short_thresholds(cast("list[float]", curve[i].thresholds))
        box = text_box(inside[i], text)
        if is_free(box, taken):
            taken.append(box)
            style = {"textcoords": "offset points", "fontsize": 8, "in_layout": False}
            axes.annotate(text, places[i], xytext=(6, -11), **style)


def short_thresholds(thresholds: Sequence[float]) -> str:
    """Format θ with four digits, or more if a θ < 1 would round to 1."""
    rounded = [float(f"{threshold:.4g}") for threshold in thresholds]
    return format_thresholds([t if r >= 1 > t else r for t, r in zip(thresholds, rounded, strict=True)])


Box = tuple[float, float, float, float]  # left, bottom, right, top


def text_box(place: tuple[float, float], text: str) -> Box:
    """Return the area of a label below and right of a point, as fractions of the panel."""
    left, top = place[0] + 0.015, place[1] - 0.005
    return left, top - TEXT_HEIGHT, left + LETTER_WIDTH * len(text), top


def is_free(box: Box, taken: Sequence[Box]) -> bool:
    """Return whether a box lies inside the panel and overlaps no other."""
    left, bottom, right, top = box
    if left < 0 or right > 1 or bottom < 0 or top > 1:
        return False
    return all(right <= other[0] or left >= other[2] or top <= other[1] or bottom >= other[3] for other in taken)


def spread_indices(places: Sequence[tuple[float, float]]) -> list[int]:
    """Return points far enough apart for labels, at most `MAX_MARKED`; `places` are fractions of the panel."""
    chosen: list[int] = []
    for i, (x, y) in enumerate(places):
        far = all(((x - places[j][0]) ** 2 + (y - places[j][1]) ** 2) ** 0.5 >= MIN_DISTANCE for j in chosen)
        if far and len(chosen) < MAX_MARKED:
            chosen.append(i)
    return chosen
