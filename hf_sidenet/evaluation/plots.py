# SPDX-License-Identifier: Apache-2.0
"""Figures. The only file that imports matplotlib, inside functions, so that the package works without it.

Figures are built without pyplot: no window, no backend choice, no state shared with the caller's own plots.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..measurement.files import replacing
from ..optional import require
from .curves import CurvePoint, format_thresholds


# currency → how its axis is called
PANELS = {"params": "parameters", "flops": "FLOPs", "milliseconds": "time"}
SIDENET_MARKERS = "^vDPX<>"
MARKERS = "os" + SIDENET_MARKERS
X_ROOM = 1.18  # right of the dearest point, for its θ
MAX_MARKED = 8
MIN_DISTANCE = 0.11  # between marked points, as a fraction of the panel


def plot_accuracy_cost(
    curve: Sequence[CurvePoint], fixed: Sequence[CurvePoint], path: str | os.PathLike, title: str
) -> None:
    """Draw accuracy against mean cost per row in three panels: parameters, FLOPs, milliseconds.

    Args:
        curve (`Sequence[CurvePoint]`): points of [`~curves.sweep`], in the order of θ; some get their θ written on.
        fixed (`Sequence[CurvePoint]`): points of [`~curves.fixed_points`], the MainNet's first.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model and data.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no points on the curve.
    """
    if not curve:
        raise ValueError("`curve` must hold at least one point, got none.")
    with _three_panels(path, title, [*curve, *fixed]) as panels:
        for axes, currency in zip(panels, PANELS, strict=True):
            _draw_panel(axes, curve, fixed, currency)
        # When all three are drawn, since they share their axes, which end where the data of all of them end.
        for axes, currency in zip(panels, PANELS, strict=True):
            _write_thresholds(axes, curve, currency)


def plot_comparison(curves: Mapping[str, Sequence[CurvePoint]], path: str | os.PathLike, title: str) -> None:
    """Draw several models or ways to train, a line each, in the same three panels; a point's `name` is written on.

    Args:
        curves (`Mapping[str, Sequence[CurvePoint]]`): name in the legend, and points in the order to be joined.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): what is compared, on which data.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no points.
    """
    everything = [point for points in curves.values() for point in points]
    if not everything:
        raise ValueError("`curves` must hold at least one point, got none.")
    with _three_panels(path, title, everything) as panels:
        for axes, currency in zip(panels, PANELS, strict=True):
            for number, (label, points) in enumerate(curves.items()):
                places = [(getattr(point, currency), 100 * point.accuracy) for point in points]
                marker = MARKERS[number % len(MARKERS)]
                axes.plot(*zip(*places, strict=True), marker=marker, markersize=4, linewidth=1.2, label=label)
                for point, place in zip(points, places, strict=True):
                    axes.annotate(point.name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)
            _tidy(axes)


@contextmanager
def _three_panels(path: str | os.PathLike, title: str, points: Sequence[CurvePoint]) -> Iterator[Any]:
    """Three axes to draw on; afterwards they get labels and a legend, and the figure is written."""
    require("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    panels[0].set_xlim(0, X_ROOM * max(getattr(point, currency) for point in points for currency in PANELS))
    for axes, quantity in zip(panels, PANELS.values(), strict=True):
        axes.set_xlabel(f"{quantity} per row, fraction of the MainNet's")
    yield panels
    panels[0].set_ylabel("accuracy (%)")
    figure.suptitle(title)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


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
    _tidy(axes)


def _tidy(axes) -> None:
    axes.margins(y=0.12)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)


def _write_thresholds(axes, curve: Sequence[CurvePoint], currency: str) -> None:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    places = [(getattr(point, currency), 100 * point.accuracy) for point in curve]
    for i in spread_indices([((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in places]):
        text = format_thresholds(curve[i].thresholds)
        axes.annotate(text, places[i], xytext=(6, -11), textcoords="offset points", fontsize=8)


def spread_indices(places: Sequence[tuple[float, float]]) -> list[int]:
    """Points far enough apart to be written on, at most `MAX_MARKED`; `places` are fractions of the panel."""
    chosen: list[int] = []
    for i, (x, y) in enumerate(places):
        far = all(((x - places[j][0]) ** 2 + (y - places[j][1]) ** 2) ** 0.5 >= MIN_DISTANCE for j in chosen)
        if far and len(chosen) < MAX_MARKED:
            chosen.append(i)
    return chosen
