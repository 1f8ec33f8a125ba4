# SPDX-License-Identifier: Apache-2.0
"""Simulate how late a ShadowMonitor's alarm is, and how often it is false. Simulated rows, no model.

usage: python examples/monitoring/simulate.py [--limit 0.02] [--level 0.05] [--runs 200] [--seed 0]

Prints a table. All numbers count monitored rows: at a share of 5 %, twenty times as many are answered.
"""

import argparse

import numpy as np
from tqdm import tqdm

from hf_sidenet.monitoring import ChangeDetector


# Rows before the change, rows until a run is stopped, and the length of a run without a change.
BEFORE, AFTER, QUIET = 3000, 20_000, 20_000
CHANGES = (1.25, 1.5, 2, 3, 5)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=0.02, help="certified rate")
    parser.add_argument("--level", type=float, default=0.05, help="probability of a false alarm, ever")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def alarm_at(args: argparse.Namespace, rates: np.ndarray, generator: np.random.Generator) -> int | None:
    """Return the row of the alarm, where row i is a hit at `rates[i]`."""
    detector = ChangeDetector(args.limit, args.level)
    for hit in generator.random(len(rates)) < rates:
        if detector.add(bool(hit)):
            return detector.alarm_at
    return None


def false_alarms(args: argparse.Namespace, rate: float, generator: np.random.Generator) -> int:
    """Return the number of false alarms in runs without a change."""
    runs = tqdm(range(args.runs), desc=f"at {rate:.1%}", leave=False)
    return sum(alarm_at(args, np.full(QUIET, rate), generator) is not None for _ in runs)


def delays(args: argparse.Namespace, rate: float, generator: np.random.Generator) -> list[float]:
    """Return the rows from the change to the alarm, for each run; infinite without an alarm."""
    rates = np.repeat([args.limit / 2, rate], [BEFORE, AFTER])
    found = []
    for _ in tqdm(range(args.runs), desc=f"to {rate:.1%}", leave=False):
        row = alarm_at(args, rates, generator)
        found.append(float("inf") if row is None else row - BEFORE)
    return found


def main() -> None:
    """Print the table."""
    args = parse_args()
    generator = np.random.default_rng(args.seed)
    print(f"limit {args.limit:.1%}, level {args.level}, {args.runs} runs, seed {args.seed}")
    for rate in (args.limit / 2, args.limit):
        print(f"rate {rate:.1%} for {QUIET} rows: {false_alarms(args, rate, generator)} runs with a false alarm")
    print(f"\n| from {args.limit / 2:.1%} to | rows until the alarm: median | 95 % of runs | worst run |")
    print("|---|---|---|---|")
    for factor in CHANGES:
        found = delays(args, factor * args.limit, generator)
        rows = [np.quantile(found, q, method="higher") for q in (0.5, 0.95, 1)]
        cells = (f"{row:.0f}" if np.isfinite(row) else f"more than {AFTER}" for row in rows)
        print(f"| {factor * args.limit:.1%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
