# SPDX-License-Identifier: Apache-2.0
"""One table and one picture out of several runs of run_text_classification.py, MainNets trained alone among them.

usage: compare_runs.py PICTURE.png OUTPUT_DIR ... > table.md
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

from hf_sidenet.evaluation import CurvePoint, plot_comparison
from hf_sidenet.measurement import CURRENCIES


HEADER = ["run", "exit after", "SideNet alone %", "θ", "routed %", "MainNet %", "params", "FLOPs", "ms"]


def load_points(folder: Path) -> tuple[dict[str, CurvePoint], list[CurvePoint], list[CurvePoint]]:
    """The fixed answers by name, the sweep, and each SideNet in use alone at the θ that validation rows chose."""
    config = json.loads((folder / "config.json").read_text())
    num_sidenets = len(config["exit_layers"])
    with open(folder / "sweep.csv", newline="") as file:
        points = [
            CurvePoint(
                thresholds=[float(row[f"threshold_{i}"]) for i in range(num_sidenets)],
                accuracy=float(row["accuracy"]),
                shares=[float(row[f"share_{i}"]) for i in range(num_sidenets + 1)],
                **{currency: float(row[currency]) for currency in CURRENCIES},
                name=row["name"],
            )
            for row in csv.DictReader(file)
        ]
    fixed = {point.name: point for point in points if point.name}
    routed = [point for point in points if not point.name]
    if num_sidenets == 1:
        return fixed, routed, [next(point for point in routed if point.thresholds == config["thresholds"])]
    # They come last in the file, in the order of the SideNets.
    return fixed, routed[:-num_sidenets], routed[-num_sidenets:]


def lines_of(folder: Path) -> list[list[str]]:
    """A line of the table per SideNet, or one for a MainNet trained alone."""
    if not (folder / "sweep.csv").exists():
        return [[folder.name, "-", "-", "-", "-", percent(accuracy_alone(folder)), "-", "-", "-"]]
    exit_layers = json.loads((folder / "config.json").read_text())["exit_layers"]
    fixed, _, singles = load_points(folder)
    return [
        [
            folder.name,
            str(layer),
            percent(fixed[f"SideNet {index} alone"].accuracy),
            f"{point.thresholds[index]:g}",
            percent(point.accuracy),
            percent(fixed["MainNet alone"].accuracy),
            *(f"{getattr(point, currency):.2f}" for currency in CURRENCIES),
        ]
        for index, (layer, point) in enumerate(zip(exit_layers, singles, strict=True))
    ]


def curves_of(folders: list[Path]) -> dict[str, list[CurvePoint]]:
    """The sweep of each run, and the MainNets cut after k blocks, each at the cost of SideNet k alone."""
    curves, at_cost, cut = {}, {}, {}
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        if (folder / "sweep.csv").exists():
            fixed, curves[folder.name], _ = load_points(folder)
            alone = (fixed[f"SideNet {index} alone"] for index in range(len(config["exit_layers"])))
            at_cost |= dict(zip(config["exit_layers"], alone, strict=True))
        else:
            cut[config["num_hidden_layers"]] = accuracy_alone(folder)
    shown = [
        replace(at_cost[layers], name=f"cut at {layers}", accuracy=accuracy)
        for layers, accuracy in sorted(cut.items())
        if layers in at_cost
    ]
    return {**curves, "MainNet cut and fine-tuned": shown} if shown else curves


def accuracy_alone(folder: Path) -> float:
    return json.loads((folder / "test_results.json").read_text())["test_accuracy"]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def main(picture: Path, folders: list[Path]) -> None:
    rows = [line for folder in folders for line in lines_of(folder)]
    for row in [HEADER, [":--", *["--:"] * (len(HEADER) - 1)], *rows]:
        print(f"| {' | '.join(row)} |")
    plot_comparison(curves_of(folders), picture, "All SideNets of a run, as θ moves")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
