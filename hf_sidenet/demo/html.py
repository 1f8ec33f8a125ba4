# SPDX-License-Identifier: Apache-2.0
"""Text and figures of the page, as HTML. All foreign text is escaped."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..evaluation.plots import add_legend, new_figure, short_thresholds, tidy
from .answering import Answer
from .dial import Dial


THUMBNAIL = 256  # pixels

WIDTH, HEIGHT = 5.6, 4.0  # inches: readable on a phone


def answer_html(answer: Answer) -> str:
    """Return the answer as HTML: the exit, its confidence, and what was saved."""
    exit, gain = answer.answered, saved(answer.answered.flops)
    lines = [
        f"<div role='status'><p class='sidenet-label'>{escape(exit.label)}</p>",
        f"<p><strong>{exit.name}</strong> answered, {exit.place}, with a confidence of {exit.confidence:.3f}.</p>"
        "</div>",
        f"<p><strong>{gain[0].upper()}{gain[1:]}.</strong> {answer.milliseconds:.1f} ms here, just now; all "
        f"blocks and SideNets took {answer.all_milliseconds:.1f} ms.</p>",
        "" if answer.read_tokens is None else f"<p>Only the first {answer.read_tokens:,} tokens were read.</p>",
        _exits_table(answer),
    ]
    return "".join(lines)


def _exits_table(answer: Answer) -> str:
    rows = []
    for index, exit in enumerate(answer.exits):
        theta = "" if exit.threshold is None else short_thresholds([exit.threshold])
        if index == answer.exit_index:
            kind, state = "sidenet-answered", "answered"
        elif index < answer.exit_index:
            kind, state = "sidenet-unsure", "not sure enough"
        else:
            kind, state = "sidenet-later", "did not run"
        rows.append(
            f"<tr class='{kind}'><th scope='row'>{exit.name}<br><small>{state}</small></th><td>{escape(exit.label)}"
            f"</td><td>{exit.confidence:.3f}</td><td>{theta}</td></tr>"
        )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("exit", "class", "confidence", "θ"))
    return (
        "<div class='sidenet-scroll' tabindex='0' role='region' aria-label='Results of every exit'>"
        "<table><caption>Results of every exit, including those that did not run</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def picture_html(picture: Any) -> str:
    """Return a thumbnail as HTML.

    Args:
        picture (`PIL.Image.Image`): picture of any mode.
    """
    small, buffer = picture.convert("RGB"), BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, format="png")
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return f"<img class='sidenet-picture' src='{source}' alt='the picture that was answered'>"


def dial_html(dial: Dial, index: int, not_certified: str | None = None) -> str:
    """Return the current θ as HTML, with its measured cost and accuracy.

    Includes a warning if these numbers and the evidence behind θ are from another model.
    """
    position = dial.positions[index]
    own = " (as this checkpoint was published)" if index == dial.chosen else ""
    parts = [f"<p>θ = <strong>{short_thresholds(position.thresholds)}</strong>{own}.</p>"]
    if not_certified is not None:
        parts.append(f"<p><strong>Not certified:</strong> {escape(not_certified)}.</p>")
    if position.accuracy is None:
        parts.append(
            "<p>No accuracy was measured at this θ.</p>"
            if dial.measured
            else "<p>This checkpoint has no report: accuracy is unknown, and FLOPs do not include the SideNets.</p>"
        )
    else:
        low_high = "" if position.interval is None else f" [{percents(position.interval)}]"
        parts.append(
            f"<p>On {dial.rows}: {percent(position.accuracy)}{low_high} right, at "
            f"{position.flops:.2f} of the MainNet's FLOPs.</p>"
        )
    return f"<div role='status'>{''.join(parts)}</div>"


def curve_text(dial: Dial, index: int) -> str:
    """Describe the figure of [`draw_curve`] in words."""
    position = dial.positions[index]
    points = [each.point for each in dial.measured]
    fast, *_, careful = sorted([*points, *points[:1]], key=lambda point: point[0])
    text = (
        f"Accuracy against mean FLOPs per row, on {dial.rows}: from {percent(careful[1])} at "
        f"{careful[0]:.2f} of the MainNet's FLOPs to {percent(fast[1])} at {fast[0]:.2f}."
    )
    if position.accuracy is None:
        return f"{text} The current θ is not on it."
    return f"{text} The current θ is at {percent(position.accuracy)} and {position.flops:.2f}."


def batch_html(
    names: Sequence[str],
    counts: Sequence[int],
    flops: float | None,
    failed: int,
    right: tuple[int, int] | None,
    note: str | None = None,
) -> str:
    """Summarize the answers to a file as HTML.

    Args:
        names (`Sequence[str]`): names of the exits.
        counts (`Sequence[int]`): number of rows that each exit answered.
        flops (`float`, *optional*): mean FLOPs per answered row; `None` if there are none.
        failed (`int`): number of rows without an answer.
        right (`tuple[int, int]`, *optional*): number of correct rows, and of rows with a known class.
        note (`str`, *optional*): why there is no such number.
    """
    answered = sum(counts)
    items = [
        f"{answered + failed:,} rows" + (f", {failed:,} without an answer (see the column `error`)" * bool(failed))
    ]
    if answered and flops is not None:
        items.append(
            ", ".join(
                f"{name} answered {count:,} ({percent(count / answered)})"
                for name, count in zip(names, counts, strict=True)
            )
        )
        items.append(f"{flops:.2f} of the MainNet's FLOPs: {saved(flops)}")
    if right is not None:
        items.append(f"{right[0]:,} of {right[1]:,} right ({percent(right[0] / right[1])}), by the file's own classes")
    if note is not None:
        items.append(note)
    return "<ul role='status'>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def saved(flops: float) -> str:
    """Describe the savings at a fraction of the MainNet's FLOPs, which may exceed 1 with SideNets."""
    return "nothing saved" if flops > 0.995 else f"{100 * (1 - flops):.0f} % of the FLOPs saved"


def percent(value: float) -> str:
    """Format a fraction as `"87.3 %"`."""
    return f"{100 * value:.1f} %"


def percents(values: Sequence[float]) -> str:
    """Format an interval as `"86.1 to 88.6 %"`."""
    return " to ".join(f"{100 * value:.1f}" for value in values) + " %"


def curve_html(dial: Dial, index: int) -> str:
    """Return the figure as an HTML image with a description; empty if no accuracy was measured.

    Args:
        dial ([`Dial`]): all settings of θ.
        index (`int`): index of the current one.
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
    """Draw accuracy against mean FLOPs, with the checkpoint's own θ and the current one.

    Args:
        dial ([`Dial`]): settings, at least one measured.
        index (`int`): index of the current one; not drawn if it was not measured.
        path (`Path`): PNG file to write.
    """
    # Sorted, because cost may go back and forth along the path.
    points = sorted(dial.measured, key=lambda position: position.point[0])
    costs, right = [point.point[0] for point in points], [100 * point.point[1] for point in points]
    intervals = [point.interval for point in points if point.interval is not None]
    with new_figure(path, "", WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        if len(intervals) == len(points):
            low, high = zip(*([100 * end for end in interval] for interval in intervals), strict=True)
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
