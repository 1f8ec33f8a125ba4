# SPDX-License-Identifier: Apache-2.0
"""Compute how many replicas of each stage a load needs, from the costs measured by compare_serving.py.

    python examples/distributed/plan_replicas.py outputs/serving/serving.csv --requests-per-second 100 10000

A replica has one core, loaded to `--utilization`; the rest is for bursts, since queues grow steeply beyond it.
"""

import argparse
import csv
import math
from collections.abc import Sequence
from typing import Any


DEFAULT_LOADS = (100, 1_000, 10_000, 100_000)


def replicas(cpu_ms_per_row: float, rows_per_second: float, utilization: float) -> int:
    """Return the number of replicas that a load keeps busy at most to `utilization`.

    Args:
        cpu_ms_per_row (`float`): of one kind of process, over all rows, including those that do not reach it.
        rows_per_second (`float`): incoming rows.
        utilization (`float`): in (0, 1].

    Raises:
        ValueError: an argument is invalid.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"`utilization` must be in (0, 1], got {utilization}.")
    if not (0 < rows_per_second < math.inf and 0 <= cpu_ms_per_row < math.inf):
        raise ValueError(f"costs and loads must be numbers ≥ 0, got {cpu_ms_per_row} ms and {rows_per_second} rows/s.")
    return max(1, math.ceil(rows_per_second * cpu_ms_per_row / 1e3 / utilization))


def read_costs(path: str) -> list[dict[str, Any]]:
    """Read the rows of `serving.csv`.

    Raises:
        ValueError: the file is not a `serving.csv`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"server", "process", "cpu_ms_per_row"} <= rows[0].keys():
        raise ValueError(f"COSTS: must be a serving.csv of compare_serving.py, got {path!r}.")
    return [{**row, "cpu_ms_per_row": float(row["cpu_ms_per_row"])} for row in rows]


def table(costs: Sequence[dict[str, Any]], loads: Sequence[float], utilization: float, rows: float) -> str:
    """Return Markdown: replicas of every kind of process, and their sum, per load."""
    lines = [
        f"| server | process | {' | '.join(f'{load:,.0f}/s' for load in loads)} |",
        f"|---|---|{'---|' * len(loads)}",
    ]
    for server in dict.fromkeys(row["server"] for row in costs):
        own = [row for row in costs if row["server"] == server]
        counts = [[replicas(row["cpu_ms_per_row"], load * rows, utilization) for load in loads] for row in own]
        for row, numbers in zip(own, counts, strict=True):
            lines.append(f"| {server} | {row['process']} | {' | '.join(f'{n:,}' for n in numbers)} |")
        sums = " | ".join(f"**{sum(column):,}**" for column in zip(*counts, strict=True))
        lines.append(f"| {server} | all | {sums} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", help="serving.csv written by compare_serving.py")
    parser.add_argument("--requests-per-second", type=float, nargs="+", default=DEFAULT_LOADS)
    parser.add_argument("--rows-per-request", type=float, default=1, help="(1)")
    parser.add_argument("--utilization", type=float, default=0.6, help="of a core, in (0, 1] (0.6)")
    args = parser.parse_args()
    try:
        print(table(read_costs(args.costs), args.requests_per_second, args.utilization, args.rows_per_request))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
