# SPDX-License-Identifier: Apache-2.0
"""Figure of a benchmark: throughput and fraction of the ideal over batch size. Readable in grayscale."""

import os
from collections.abc import Iterable, Sequence

from ..evaluation.plots import new_figure, tidy
from .measures import MethodResult, SizeResult
from .methods import OWN_FORWARD, PER_BATCH, PLAIN_MAINNET, RIVAL, RUNNER, WHOLE_BATCH
from .verdict import accurate


PANEL_WIDTH, PANEL_HEIGHT = 4.0, 3.3  # inches
STYLES: dict[str, dict[str, object]] = {
    PLAIN_MAINNET: {"color": "0.55", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    RUNNER: {"color": "0.0", "linestyle": "-", "marker": "o"},
    PER_BATCH: {"color": "0.0", "linestyle": ":", "marker": "^"},
    OWN_FORWARD: {"color": "0.35", "linestyle": "-.", "marker": "v", "markerfacecolor": "white"},
    WHOLE_BATCH: {"color": "0.55", "linestyle": "-.", "marker": "x"},
}
# Cycled through for other kinds.
OTHER_STYLES: tuple[dict[str, object], ...] = (
    {"color": "0.7", "linestyle": "-", "marker": "D", "markerfacecolor": "white"},
    {"color": "0.7", "linestyle": ":", "marker": "P"},
    {"color": "0.45", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "*"},
    {"color": "0.45", "linestyle": "--", "marker": "X", "markerfacecolor": "white"},
)


def plot_benchmark(sizes: Sequence[SizeResult], path: str | os.PathLike, title: str, max_accuracy_drop: float) -> None:
    """Draw a column of panels per precision and engine: throughput above, fraction of the ideal below. For methods
    measured in both orders, only the order by length is drawn; rivals that are nowhere accurate enough are left out.

    Args:
        sizes (`Sequence[SizeResult]`): the measurements.
        path (`str` or `os.PathLike`): PNG file to write.
        title (`str`): model, data and hardware.
        max_accuracy_drop (`float`): see [`verdict_of`].

    Raises:
        ImportError: matplotlib is not installed.
    """
    results = [result for size in sizes for result in size.methods]
    variants = list(dict.fromkeys((result.precision, result.engine) for result in results))
    kinds = drawn_kinds(sizes, max_accuracy_drop)
    legend: dict[str, object] = {}
    width = max(8.0, 1.0 + PANEL_WIDTH * len(variants))
    with new_figure(path, title, width, 1.6 + 2 * PANEL_HEIGHT) as figure:
        panels = figure.subplots(2, len(variants), sharex=True, sharey="row", squeeze=False)
        for (speed, share), variant in zip(panels.T, variants, strict=True):
            speed.set_title(", ".join(variant), fontsize=10)
            _lines(speed, sizes, kinds, variant, "rows_per_second", legend)
            _lines(share, sizes, kinds, variant, "efficiency", legend)
            share.axhline(1.0, color="0.8", linewidth=1, zorder=0)
            share.set_xlabel("batch size")
            for axes in (speed, share):
                axes.set_xscale("log", base=2)
                batch_sizes = [size.batch_size for size in sizes]
                axes.set_xticks(batch_sizes, [str(batch_size) for batch_size in batch_sizes])
                axes.minorticks_off()
                tidy(axes)
        panels[0, 0].set_ylim(bottom=0)
        panels[0, 0].set_ylabel("rows per second")
        panels[1, 0].set_ylabel("ideal time / time")
        figure.legend(
            list(legend.values()), list(legend), loc="outside lower center", ncols=min(4, len(legend)), frameon=False
        )


def drawn_kinds(sizes: Sequence[SizeResult], max_accuracy_drop: float) -> list[str]:
    """Return the kinds of methods to draw, in the order of the table.

    Args:
        sizes (`Sequence[SizeResult]`): the measurements.
        max_accuracy_drop (`float`): see [`verdict_of`].
    """
    good = {result.kind for size in sizes for result in accurate(size, max_accuracy_drop)}
    results = [result for size in sizes for result in size.methods]
    return [*dict.fromkeys(result.kind for result in results if result.group != RIVAL or result.kind in good)]


def styles_of(kinds: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return the matplotlib style of each kind of method.

    Args:
        kinds (`Iterable[str]`): kinds in the order of the table.
    """
    others = [kind for kind in kinds if kind not in STYLES]
    return STYLES | {kind: OTHER_STYLES[i % len(OTHER_STYLES)] for i, kind in enumerate(others)}


def _lines(
    axes,
    sizes: Sequence[SizeResult],
    kinds: Sequence[str],
    variant: tuple[str, str],
    field: str,
    legend: dict[str, object],
) -> None:
    styles = styles_of(kinds)
    for kind in kinds:
        points = [(size.batch_size, _value(size, variant, kind, field)) for size in sizes]
        points = [(batch_size, value) for batch_size, value in points if value is not None]
        if points:
            style = {"markersize": 5, "linewidth": 1.4, **styles[kind]}
            (legend[kind],) = axes.plot(*zip(*points, strict=True), label=kind, **style)


def _value(size: SizeResult, variant: tuple[str, str], kind: str, field: str) -> float | None:
    found = [result for result in size.methods if (result.precision, result.engine) == variant and result.kind == kind]
    return getattr(_by_length(found), field) if found else None


def _by_length(results: Sequence[MethodResult]) -> MethodResult:
    return next((result for result in results if result.bucketed), results[0])
