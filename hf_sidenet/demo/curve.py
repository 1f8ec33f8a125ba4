# SPDX-License-Identifier: Apache-2.0
"""The accuracy-compute curve with the current θ on it."""

from base64 import b64encode
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from ..evaluation.plots import add_legend, new_figure, tidy
from .dial import Dial
from .words import curve_text


WIDTH, HEIGHT = 5.6, 4.0  # inches: readable on a phone


def curve_html(dial: Dial, index: int) -> str:
    """The picture as an HTML image that says in words what it shows; empty where no accuracy was measured.

    Args:
        dial ([`Dial`]): all settings of θ.
        index (`int`): the current one.
    """
    if not dial.measured:
        return ""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "curve.png"
        draw_curve(dial, index, path)
        picture = b64encode(path.read_bytes()).decode()
    text = escape(curve_text(dial, index), quote=True)
    return f"<img class='sidenet-curve' src='data:image/png;base64,{picture}' alt=\"{text}\">"


def draw_curve(dial: Dial, index: int, path: Path) -> None:
    """Draw accuracy against mean FLOPs, the checkpoint's own θ and the current one.

    Args:
        dial ([`Dial`]): at least one setting was measured.
        index (`int`): the current one; where it was not measured it is not drawn.
        path (`Path`): PNG file to write.
    """
    # A path may go to and fro in cost, and a band cannot.
    points = sorted(dial.measured, key=lambda position: position.flops)
    costs, right = [point.flops for point in points], [100 * point.accuracy for point in points]
    with new_figure(path, "", WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        if all(point.interval is not None for point in points):
            low, high = zip(*([100 * end for end in point.interval] for point in points), strict=True)
            axes.fill_between(costs, low, high, facecolor="0.88", edgecolor="0.6", linewidth=0.6, label="interval")
        axes.plot(costs, right, color="0.15", marker="o", markersize=3.5, linewidth=1.5, label="other θ")
        for place, style in (
            (dial.chosen, {"marker": "D", "markersize": 9, "markerfacecolor": "white", "label": "as published"}),
            (index, {"marker": "*", "markersize": 17, "markerfacecolor": "#e8601c", "label": "θ now"}),
        ):
            position = dial.positions[place]
            if position.accuracy is not None:
                at = position.flops, 100 * position.accuracy
                axes.plot(*at, linestyle="none", markeredgecolor="black", zorder=4, **style)
        axes.set_xlim(left=0)
        axes.set_xlabel("mean FLOPs per row, fraction of the MainNet's")
        axes.set_ylabel(f"accuracy (%) on\n{dial.rows}")
        tidy(axes)
        add_legend(figure, axes)
