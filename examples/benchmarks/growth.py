# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the runner against the number of rows: a tiny random BERT with one SideNet, whose own work is so
small that the runner's per-row overhead shows. A generator yields texts of 1 to 64 tokens; half of them exit early.

usage: growth.py [--rows 1000 10000 100000 1000000] [--profile 20000] [--output_dir FOLDER]
"""

import argparse
import cProfile
import csv
import math
import platform
import pstats
import random
import resource
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

from hf_sidenet import BertWithSideNetForSequenceClassification
from hf_sidenet.evaluation.plots import new_figure
from hf_sidenet.inference import SideNetRunner
from hf_sidenet.inference.routings import POOLED, ROUTINGS


LONGEST = 64
VOCABULARY = 1000
# Rows are made once and reused, so that the clock measures only the runner.
DIFFERENT_ROWS = 4999
STATUS = Path("/proc/self/status")
HEADER = ("rows", "seconds", "cpu_seconds", "microseconds_per_row", "peak_mebibytes", "left_early")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--routing", choices=ROUTINGS, default=POOLED)
    parser.add_argument("--width", type=int, default=16, help="of the hidden states")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", type=int, metavar="ROWS", help="also profile this many rows")
    parser.add_argument("--output_dir", type=Path, help="for growth.csv and growth.png")
    args = parser.parse_args()
    if len(set(args.rows)) < 2 or min(args.rows) < 1:
        parser.error(f"--rows must be at least two different numbers ≥ 1, got {args.rows}")
    return args


def tiny_model(width: int) -> BertWithSideNetForSequenceClassification:
    """Build a model of two blocks, with a SideNet after the first."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LONGEST,
    )
    mainnet = BertForSequenceClassification(config).eval()
    return BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1]).eval()


def texts(count: int) -> Iterator[dict[str, list[int]]]:
    """Yield rows as a tokenizer returns them, of random length."""
    chance = random.Random(0)
    made = [
        {"input_ids": [chance.randrange(3, VOCABULARY) for _ in range(chance.randint(1, LONGEST))]}
        for _ in range(min(count, DIFFERENT_ROWS))
    ]
    return islice(cycle(made), count)


def median_confidence(model: BertWithSideNetForSequenceClassification) -> float:
    """Return the θ that half of the rows exceed."""
    everybody = SideNetRunner(model, thresholds=0.0, routing=POOLED)
    return torch.tensor([answer.confidence for answer in everybody.predict(texts(2000))]).median().item()


def peak_mebibytes() -> float:
    """Return this process's peak memory. Linux's `getrusage` may report its parent's."""
    if STATUS.exists():
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if "VmHWM" in line) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def measure(runner: SideNetRunner, count: int) -> tuple[int, float, float, float, float, float]:
    """Measure a line of the table. On a shared machine, processor time is more informative than the clock."""
    rows = texts(count)
    left = 0
    start, busy = time.perf_counter(), time.process_time()
    for answer in runner.predict(rows):
        left += answer.exit_index == 0
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return count, seconds, busy, 1e6 * seconds / count, peak_mebibytes(), left / count


def exponent(counts: list[int], seconds: list[float]) -> float:
    """Return the slope of a least-squares line through the logarithms: 1 if time grows linearly with rows."""
    x, y = [math.log(count) for count in counts], [math.log(value) for value in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle_x) ** 2 for a in x)


def draw(lines: list[tuple], path: Path) -> None:
    """Plot time and memory against rows."""
    with new_figure(path, "A tiny model with one SideNet in the runner", 9, 4) as figure:
        time_axes, memory_axes = figure.subplots(1, 2)
        counts, seconds, busy = ([line[i] for line in lines] for i in range(3))
        for values, name, style in ((seconds, "clock", "-"), (busy, "processor", "--")):
            label = f"{name}, rows to the power of {exponent(counts, values):.2f}"
            time_axes.loglog(counts, values, style, color="0.15", marker="o", label=label)
        time_axes.set_ylabel("seconds")
        time_axes.legend(loc="lower right")
        memory_axes.semilogx(counts, [line[4] for line in lines], color="0.15", marker="o")
        memory_axes.set_ylim(0, 1.15 * max(line[4] for line in lines))
        memory_axes.set_ylabel("peak memory of the process (MiB)")
        for axes in (time_axes, memory_axes):
            axes.set_xlabel("rows")
            axes.grid(color="0.88")


def show_profile(runner: SideNetRunner, count: int) -> None:
    """Print the 25 functions with the most time, excluding their callees."""
    profiler = cProfile.Profile()
    rows = texts(count)
    profiler.enable()
    for _ in runner.predict(rows):
        pass
    profiler.disable()
    print(f"\nProfile of {count} rows (the profiler itself slows small functions down):")
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(25)


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = tiny_model(args.width)
    runner = SideNetRunner(
        model, batch_size=args.batch_size, thresholds=median_confidence(model), routing=args.routing
    )
    measure(runner, args.batch_size)
    print("| rows | seconds | processor seconds | µs per row | peak memory, MiB | exited at the SideNet |")
    print("| --: | --: | --: | --: | --: | --: |")
    lines = []
    for count in sorted(set(args.rows)):
        lines.append(measure(runner, count))
        rows, seconds, busy, each, peak, left = lines[-1]
        print(f"| {rows} | {seconds:.3f} | {busy:.3f} | {each:.1f} | {peak:.1f} | {left:.2f} |", flush=True)
    counts, seconds, busy = ([line[i] for line in lines] for i in range(3))
    print(
        f"\nTime grows as rows to the power of {exponent(counts, seconds):.3f} (processor time: "
        f"{exponent(counts, busy):.3f}); peak memory from {lines[0][4]:.1f} to {lines[-1][4]:.1f} MiB. Batch "
        f"{args.batch_size}, {args.routing}, {args.threads} thread{'s' if args.threads > 1 else ''}, "
        f"{platform.machine()}; torch {torch.__version__}, transformers {transformers.__version__}."
    )
    if args.output_dir is not None:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        with open(args.output_dir / "growth.csv", "w", newline="") as file:
            csv.writer(file).writerows([HEADER, *lines])
        draw(lines, args.output_dir / "growth.png")
    if args.profile is not None:
        show_profile(runner, args.profile)


if __name__ == "__main__":
    main()
