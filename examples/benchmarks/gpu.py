# SPDX-License-Identifier: Apache-2.0
"""Measure the speedup on a GPU: full-size models in half precision, plain and with one SideNet, eager and compiled.

For timing only: weights are random, and each row gets a θ such that exactly --share of the rows exit early, evenly
mixed. A line is written as soon as it is measured; models with a complete file are skipped when the script runs again.

usage: gpu.py [--models bert-base ...] [--output_dir FOLDER] [--minutes 8]
"""

import argparse
import csv
import gc
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_models import SHAPES, TINY_SHAPES, Shape
from gpu_subject import COMPILED, EAGER, Subject


COLUMNS = (
    "model", "method", "engine", "batch_size", "rows", "ms_per_row", "speedup", "stage_0_ms", "stage_1_ms",
    "whole_over_plain", "ideal_speedup", "efficiency", "peak_mib", "memory",
)  # fmt: skip
DONE = "complete"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*SHAPES, *TINY_SHAPES], default=list(SHAPES), metavar="NAME")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--share", type=float, default=0.5, help="of the rows that exit at the SideNet")
    parser.add_argument("--engines", nargs="+", choices=[EAGER, COMPILED], default=[EAGER, COMPILED])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="per batch size, by default 8 batches, at least 256 (64 for batch 1)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--minutes", type=float, default=8, help="after which nothing new is started")
    parser.add_argument("--output_dir", type=Path, default=Path(os.environ.get("OUT", "outputs/gpu")))
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"--share must be in [0, 1], got {args.share}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            "--device must exist: there is no CUDA device here. To try the script: --device cpu --models tiny-bert"
        )
    return args


def write(folder: Path, name: str, lines: list[dict[str, Any]], text: str, complete: bool) -> None:
    """Write the CSV and the text of a model, from scratch each time, since there are few lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    (folder / f"{name}.txt").write_text(text + (f"\n{DONE}\n" if complete else "\n"))


def is_complete(folder: Path, name: str) -> bool:
    path = folder / f"{name}.txt"
    return path.exists() and path.read_text().endswith(f"\n{DONE}\n")


def shown(line: dict[str, Any]) -> str:
    def number(name: str, form: str) -> str:
        value = line.get(name)
        return "–" if value is None else format(value, form)

    forms = {
        "ms_per_row": ".4f", "speedup": ".3f", "stage_0_ms": ".4f", "stage_1_ms": ".4f", "whole_over_plain": ".2f",
        "ideal_speedup": ".3f", "efficiency": ".3f", "peak_mib": ".0f", "memory": ".3f",
    }  # fmt: skip
    cells = [
        format(number(name, forms[name]) if name in forms else str(line.get(name, "–")), ">9") for name in COLUMNS
    ]
    return " ".join(cells)


def header(args: argparse.Namespace) -> str:
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, transformers {transformers.__version__}"
    return (
        f"For timing only: random weights; θ is set so that {args.share:g} of the rows exit early. {name}; "
        f"{versions}; {args.dtype}.\n" + " ".join(format(name[:9], ">9") for name in COLUMNS)
    )


def measure_model(name: str, shape: Shape, args: argparse.Namespace, deadline: float) -> bool:
    """Measure all lines of one model; return `False` if time ran out."""
    text = [header(args)]
    print(text[0], flush=True)
    subject = Subject(name, shape, args)

    def say(line: str) -> None:
        text.append(line)
        print(line, flush=True)

    # Eager first, so that recorded graphs take no memory.
    for engine in [each for each in (EAGER, COMPILED) if each in args.engines]:
        stages, plain = subject.chains(engine)
        if engine == EAGER:
            said, table = subject.copies(stages, plain)
            for line in said:
                say(line)
            text.append(table)
        for batch_size in args.batch_sizes:
            if time.monotonic() > deadline:
                say(f"{name}, {engine}, batch {batch_size}: no time left")
                write(args.output_dir, name, subject.lines, "\n".join(text), complete=False)
                return False
            start = time.monotonic()
            for line in subject.measure(engine, stages, plain, batch_size):
                say(shown(line))
            say(f"{name}, {engine}, batch {batch_size}: measured in {time.monotonic() - start:.0f} s")
            write(args.output_dir, name, subject.lines, "\n".join(text), complete=False)
    write(args.output_dir, name, subject.lines, "\n".join(text), complete=True)
    return True


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + 60 * args.minutes
    for name in args.models:
        if is_complete(args.output_dir, name):
            print(f"{name}: {args.output_dir / name}.csv exists already")
            continue
        if not measure_model(name, {**SHAPES, **TINY_SHAPES}[name], args, deadline):
            sys.exit(f"{name} is not complete: run the script again with --models {name}")
        # Free one model's graphs and weights before the next is built.
        torch._dynamo.reset()
        gc.collect()
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
