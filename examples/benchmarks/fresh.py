# SPDX-License-Identifier: Apache-2.0
"""Compare a fresh runner, which has yet to find its fastest routing, with one that knows it, and with the ideal.

The ideal is the time of the stages alone: sorted rows in full batches, already padded, and at a later stage only the
rows that get there. Stage 0 sorts within the runner's windows, a later stage all its rows. All take turns, a few rows
at a time, because the speed of a shared machine changes within seconds.

usage: fresh.py CHECKPOINT TEXTS [--rows 1024 10000] [--batch_sizes 1 8 32 128]
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.rows import by_length
from hf_sidenet.evaluation.provenance import hardware, versions
from hf_sidenet.inference import SideNetRunner, Stages
from hf_sidenet.inference.engine import padding_of
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.routings import AUTO, ROUTINGS, full_batch
from hf_sidenet.inference.rows import Batch, Row, collate
from hf_sidenet.inference.runner import LOOKAHEAD
from hf_sidenet.models.configuration_sidenet import chain_of
from hf_sidenet.models.exit_rule import chain_exits, leaves


HEADER = ("rows", "batch_size", "method", "ms_per_row", "share_of_ideal", "of_warm", "chosen")
# In which a runner finds its routing.
WARM_ROWS = 1024
IDEAL, FRESH, WARM = "ideal", "fresh", "warm"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="with SideNets")
    parser.add_argument("texts", type=Path, help="file with a tab-separated column `text` or `sentence`")
    parser.add_argument("--rows", nargs="+", type=int, default=[1024, 10000])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--routings", nargs="*", choices=ROUTINGS, default=[], help="also time these alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor_time", action="store_true", help="instead of the clock, on a busy machine")
    parser.add_argument("--output", type=Path, help="CSV file")
    args = parser.parse_args()
    if min(args.rows + args.batch_sizes + [args.repeats]) < 1:
        parser.error(f"--rows, --batch_sizes and --repeats must be ≥ 1, got {args.rows}, {args.batch_sizes}")
    return args


def read_texts(path: Path, count: int) -> list[str]:
    """Return `count` texts, repeating those of the file if it has fewer."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    name = next(name for name in ("text", "sentence") if name in rows[0])
    return list(islice(cycle(row[name] for row in rows), count))


@torch.inference_mode()
def padded_batches(stages: Stages, rows: Sequence[Row], batch_size: int) -> list[tuple[int, Batch]]:
    """Return every call of the ideal: stage and batch."""
    pad, calls, size, window = padding_of(stages), [], batch_size, LOOKAHEAD * batch_size
    for stage in range(len(stages)):
        ordered, rows = by_length(rows, window), []
        for i in range(0, len(ordered), size):
            batch = collate(ordered[i : i + size], pad, stages.device)
            own = []
            for before in range(stage):
                batch.hidden, logits = stages(before, batch.hidden, batch.inputs)
                own.append(logits.float())
            calls.append((stage, batch))
            if stage < len(stages) - 1:
                _, logits = stages(stage, batch.hidden, batch.inputs)
                answered = chain_exits([*own, logits.float()], chain_of(stages.config))[-1]
                sure = stages.task.confidence(answered, stages.config.temperatures[stage])
                left = leaves(sure, torch.tensor([row.thresholds[stage] for row in batch.rows])).tolist()
                rows += [row for row, gone in zip(batch.rows, left, strict=True) if not gone]
        size, window = full_batch(batch_size), max(1, len(rows))
    return calls


def ideal(stages: Stages, calls: Sequence[tuple[int, Batch]], count: int) -> Iterator[None]:
    """Yield as often as there are rows, while the calls run."""
    done = 0
    for i, (stage, batch) in enumerate(calls, start=1):
        with torch.inference_mode():
            stages(stage, batch.hidden, batch.inputs)
        while done < count * i // len(calls):
            done += 1
            yield


def take_turns(methods: dict[str, Iterator], count: int, turn: int, now: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of each method for `count` rows, `turn` rows at a time."""
    seconds = dict.fromkeys(methods, 0.0)
    for i in range(0, count, turn):
        names = list(methods) if (i // turn) % 2 else list(methods)[::-1]
        for name in names:
            start = now()
            for _ in islice(methods[name], turn):
                pass
            seconds[name] += now() - start
    for name, each in methods.items():
        start = now()
        for _ in each:
            pass
        seconds[name] += now() - start
    return seconds


def measure(model, tokenizer, texts: list[str], batch_size: int, args: argparse.Namespace) -> Iterator[tuple]:
    """Yield the lines of one number of rows and one batch size."""
    stages = Stages(model)
    reader = RowReader(stages, tokenizer)
    theta = reader.thresholds(None)
    rows = [row for row in reader.read(range(len(texts)), texts, [theta] * len(texts)) if isinstance(row, Row)]
    calls = padded_batches(stages, rows, batch_size)
    warm = SideNetRunner(model, tokenizer, batch_size)
    for _ in warm.predict(texts[:WARM_ROWS]):
        pass
    others = {
        name: SideNetRunner(model, tokenizer, batch_size, routing=name) for name in args.routings if name != AUTO
    }
    now = time.process_time if args.processor_time else time.perf_counter
    found, chosen = [], []
    for _ in range(args.repeats):
        fresh = SideNetRunner(model, tokenizer, batch_size)
        # Forgets what the cache remembers.
        fresh.times = {}
        methods: dict[str, Iterator] = {
            IDEAL: ideal(stages, calls, len(rows)),
            WARM: warm.predict(texts),
            FRESH: fresh.predict(texts),
            **{name: runner.predict(texts) for name, runner in others.items()},
        }
        found.append(take_turns(methods, len(rows), max(64, batch_size), now))
        chosen.append(fresh.chosen)
    for name in found[0]:
        yield (
            len(texts),
            batch_size,
            name,
            1e3 * median(each[name] for each in found) / len(texts),
            median(each[IDEAL] / each[name] for each in found),
            median(each[WARM] / each[name] for each in found),
            {FRESH: "/".join(chosen), WARM: warm.chosen}.get(name, ""),
        )


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_checkpoint(args.checkpoint)
    print("| rows | batch size | method | ms per row | share of the ideal | warm / this | chosen |")
    print("| --: | --: | :-- | --: | --: | --: | :-- |")
    lines = []
    for count in args.rows:
        texts = read_texts(args.texts, count)
        for batch_size in args.batch_sizes:
            for line in measure(model, tokenizer, texts, batch_size, args):
                lines.append(line)
                rows, size, name, each, share, of_warm, chosen = line
                print(
                    f"| {rows} | {size} | {name} | {each:.3f} | {share:.3f} | {of_warm:.3f} | {chosen} |", flush=True
                )
    clock = "processor time" if args.processor_time else "clock"
    print(f"\nMedians of {args.repeats} rounds ({clock}). {hardware()}; {versions()}.")
    if args.output is not None:
        with open(args.output, "w", newline="") as file:
            csv.writer(file).writerows([HEADER, *lines])


if __name__ == "__main__":
    main()
