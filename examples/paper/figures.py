# SPDX-License-Identifier: Apache-2.0
"""The page's figures, from its tables. Lines differ in marker and dash, so that they can be told apart in gray."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from page_text import Row, grouped, values

from hf_sidenet.evaluation.plots import add_legend, new_figure, tidy


Tables = Mapping[str, Sequence[Row]]
PANELS = {"params": "parameters", "flops": "FLOPs", "milliseconds": "time"}
STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1))), ("P", (0, (3, 1, 1, 1)))]
# Experiment and SideNets → name in the legend.
TEXT_CURVES = {
    ("sst2-joint-2", "after 2"): "joint, after 2",
    ("sst2-distilled-1-2-3", "after 1+2+3"): "joint, distilled, after 1, 2, 3",
    ("sst2-frozen", "after 1+2+3"): "frozen, after 1, 2, 3",
}
IMAGE_CURVES = {
    ("resnet18-joint-1", "after 1"): "joint, after 1",
    ("resnet18-distilled-1-2-3", "after 1+2+3"): "joint, distilled, after 1, 2, 3",
    ("resnet18-frozen", "after 1+2+3"): "frozen, after 1, 2, 3",
    ("resnet18-paper-1", "after 1"): "joint, after 1, flattened x_c, MLP head",
}
# Plain models: name → the MainNet whose costs are 1.
TEXT_PLAIN = {"sst2-mainnet": "sst2-mainnet", "sst2-cut-3": "sst2-mainnet", "sst2-cut-4": "sst2-mainnet"}
IMAGE_PLAIN = {"resnet18-mainnet": "resnet18-mainnet"}
DRAWN_POLICIES = ("sst2-distilled-1-2-3", "resnet18-distilled-1-2-3")
RELIABLE = [
    ("sst2-joint-2", "SideNet 2"),
    ("sst2-joint-2", "MainNet"),
    ("resnet18-joint-1", "SideNet 1"),
    ("resnet18-joint-1", "MainNet"),
]


def draw(tables: Tables, folder: Path) -> list[Path]:
    """Draw every figure whose tables exist."""
    seeds = "mean over seeds ± standard deviation"
    text = partial(_curves, tables, TEXT_CURVES, TEXT_PLAIN, title=f"SST-2, MiniLM-L6: {seeds}")
    images = partial(_curves, tables, IMAGE_CURVES, IMAGE_PLAIN, title=f"CIFAR-10, ResNet-18: {seeds}")
    figures: list[tuple[str, set[str], Callable[[Path], bool]]] = [
        ("sst2-curves.png", {"curves", "runs"}, text),
        ("cifar10-curves.png", {"curves", "runs"}, images),
        ("reliability.png", {"reliability"}, partial(_reliability, tables)),
        ("policies.png", {"policies"}, partial(_policies, tables)),
        ("attack.png", {"attack"}, partial(_attack, tables)),
    ]
    return [folder / name for name, needed, make in figures if needed <= tables.keys() and make(folder / name)]


def _curves(
    tables: Tables, curves: Mapping[tuple[str, str], str], plain: Mapping[str, str], path: Path, *, title: str
) -> bool:
    points = grouped(tables["curves"], "experiment", "exits")
    shown = {key: label for key, label in curves.items() if key in points}
    if not shown:
        return False
    mainnets = grouped((row for row in tables["runs"] if row["exit"] == "mainnet"), "experiment")
    with new_figure(path, title, 13, 4.8) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (currency, quantity) in zip(panels, PANELS.items(), strict=True):
            for number, (key, label) in enumerate(shown.items()):
                _band(axes, points[key], currency, label, number)
            for number, (name, whole) in enumerate(plain.items()):
                if (name,) in mainnets and (whole,) in mainnets:
                    _plain_mark(axes, mainnets[name,], mainnets[whole,], currency, name, number)
            axes.set_xlabel(f"{quantity} per row, fraction of the MainNet's")
            axes.set_xlim(left=0)
            tidy(axes)
        panels[0].set_ylabel("test accuracy (%)")
        add_legend(figure, panels[0])
    return True


def _band(axes: Any, rows: Sequence[Row], currency: str, label: str, number: int) -> None:
    by_theta = grouped(rows, "threshold").values()
    x = [mean(values(at, currency)) for at in by_theta]
    y = [100 * mean(values(at, "accuracy")) for at in by_theta]
    around = [100 * _std(values(at, "accuracy")) for at in by_theta]
    marker, dash = STYLES[number % len(STYLES)]
    (line,) = axes.plot(x, y, marker=marker, linestyle=dash, markersize=3.5, linewidth=1.2, label=label)
    low, high = ([a + sign * b for a, b in zip(y, around, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _plain_mark(axes: Any, rows: Sequence[Row], whole: Sequence[Row], currency: str, name: str, number: int) -> None:
    cost = mean(values(rows, f"mainnet_{currency}")) / mean(values(whole, f"mainnet_{currency}"))
    right = values(rows, "accuracy")
    axes.errorbar(
        [cost],
        [100 * mean(right)],
        yerr=[100 * _std(right)],
        color="black",
        marker="*X+"[number % 3],
        markersize=9,
        markerfacecolor="white",
        linestyle="none",
        capsize=3,
        label=f"{name}, no exits",
    )


def _reliability(tables: Tables, path: Path) -> bool:
    rows = [row for row in tables["reliability"] if str(row["bins"]) == "15"]
    groups = grouped(rows, "experiment", "exit", "fitted")
    shown = [key for key in RELIABLE if (*key, "as trained") in groups]
    if not shown:
        return False
    with new_figure(path, "Reliability: mean over seeds ± standard deviation", 3.4 * len(shown), 4.2) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, (name, exit) in zip(panels, shown, strict=True):
            axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
            _calibrated_band(axes, groups[name, exit, "with temperature"])
            for number, fitted in enumerate(("as trained", "with temperature")):
                _diagram(axes, groups[name, exit, fitted], fitted, number)
            axes.set_title(f"{name}, {exit}", fontsize=10)
            axes.set_xlabel("confidence")
            axes.set_ylim(0, 1.02)
            tidy(axes)
        panels[0].set_ylabel("accuracy")
        add_legend(figure, panels[0])
    return True


def _calibrated_band(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the band that contains 95 % of a calibrated model's bins, with as many rows per bin as one seed has."""
    bins = sorted(grouped(rows, "low").items())
    x = [mean(values(of, "confidence")) for _, of in bins]
    widths = [1.96 * (c * (1 - c) / mean(values(of, "count"))) ** 0.5 for c, (_, of) in zip(x, bins, strict=True)]
    low, high = ([max(0, min(1, c + sign * w)) for c, w in zip(x, widths, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color="0.85", linewidth=0, label="calibrated, 95 %")


def _diagram(axes: Any, rows: Sequence[Row], label: str, number: int) -> None:
    bins = sorted(grouped(rows, "low").items())
    x = [mean(values(of, "confidence")) for _, of in bins]
    y = [mean(values(of, "accuracy")) for _, of in bins]
    around = [_std(values(of, "accuracy")) for _, of in bins]
    marker, dash = STYLES[number]
    axes.errorbar(
        x, y, yerr=around, marker=marker, linestyle=dash, markersize=4, linewidth=1.1, capsize=2, label=label
    )


def _policies(tables: Tables, path: Path) -> bool:
    rows = [row for row in tables["policies"] if (row["kind"] == "budget") == (row["policy"] != "patience")]
    names = [name for name in DRAWN_POLICIES if any(row["experiment"] == name for row in rows)]
    if not names:
        return False
    with new_figure(path, "Exit policies at equal cost, test rows", 5.4 * len(names), 4.4) as figure:
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            for number, ((policy,), of) in enumerate(
                grouped((row for row in rows if row["experiment"] == name), "policy").items()
            ):
                by_budget = _by_cost(of)
                marker, dash = STYLES[number]
                axes.errorbar(
                    [mean(values(at, "flops")) for at in by_budget],
                    [100 * mean(values(at, "accuracy")) for at in by_budget],
                    yerr=[100 * _std(values(at, "accuracy")) for at in by_budget],
                    marker=marker,
                    linestyle="none" if policy == "patience" else dash,
                    markersize=5,
                    linewidth=1.1,
                    capsize=2,
                    label=policy,
                )
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("FLOPs per row, fraction of the MainNet's")
            tidy(axes)
        panels[0].set_ylabel("test accuracy (%)")
        add_legend(figure, panels[0])
    return True


def _by_cost(rows: Iterable[Row]) -> list[list[Row]]:
    """Group rows by budget; for patience, by setting, which is its own budget."""
    own = [row for row in rows if row["kind"] in ("budget", f"patience {row['setting']}")]
    return [of for _, of in sorted(grouped(own, "kind", "budget" if own[0]["kind"] == "budget" else "kind").items())]


def _attack(tables: Tables, path: Path) -> bool:
    rows = tables["attack"]
    clean = next(row for row in rows if row["epsilon"] == 0)
    kinds = {
        ("PGD", "MainNet"): "PGD at the MainNet",
        ("PGD", "SideNet"): "PGD at the SideNet",
        ("PGD", "both"): "PGD at both",
        ("delay", None): "delay",
    }
    columns = {
        "sidenet_accuracy": "SideNet alone, accuracy (%)",
        "mainnet_accuracy": "MainNet alone, accuracy (%)",
        "routed_accuracy": "routed, accuracy (%)",
        "share_early": "rows that leave early (%)",
    }
    with new_figure(path, "CIFAR-10, ResNet-18 with a SideNet, under attack", 14, 4.2) as figure:
        panels = figure.subplots(1, len(columns), sharex=True, sharey=True)
        for axes, (key, label) in zip(panels, columns.items(), strict=True):
            for number, ((attack, aim), name) in enumerate(kinds.items()):
                found = [row for row in rows if row["attack"].lower() == attack.lower() and aim in (None, row["aim"])]
                points = sorted((row["epsilon"], 100 * row[key]) for row in [clean, *found])
                marker, dash = STYLES[number]
                axes.plot(*zip(*points, strict=True), marker=marker, linestyle=dash, linewidth=1.2, label=name)
            axes.set_title(label, fontsize=10)
            axes.set_xlabel("ε (1/255)")
            axes.set_ylim(-3, 103)
            tidy(axes)
        add_legend(figure, panels[0])
    return True


def _std(numbers: Sequence[float]) -> float:
    return stdev(numbers) if len(numbers) > 1 else 0.0
