# SPDX-License-Identifier: Apache-2.0
"""Score a large table with Ray Data: Parquet in, Parquet out, with actors that hold a `SideNetRunner`.

The rows are split into chunks, and each becomes one part of OUTPUT, written under another name until it is complete.
So an actor that dies neither loses nor duplicates a row, and running the same command again does what is missing.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import scoring_actor
import scoring_plan
from local_ray import choose_token
from scoring_actor import Score, Scoring, identity
from scoring_job import describe_job, finish, missing, open_output, summarize, summary_text
from scoring_plan import Chunk, check_unchanged, find_sources, plan
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from hf_sidenet.optional import require


# While one chunk is scored, the next one is already loaded.
CHUNKS_PER_ACTOR = 2


def whole(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1, got {value}.")
    return number


def share(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number ≥ 0, got {value}.")
    return number


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", help="folder or Hub id of a checkpoint with SideNets, or an exported ONNX folder"
    )
    parser.add_argument("input", help="a Parquet file, or a folder with *.parquet at any depth")
    parser.add_argument("output", help="folder for the parts; new, empty or from this job")
    parser.add_argument("--column", required=True, help="the column with the text")
    parser.add_argument("--pair-column", help="the column with the second text, for pairs")
    parser.add_argument(
        "--thresholds", type=float, nargs="+", help="θ of each SideNet, or one for all; by default the checkpoint's"
    )
    parser.add_argument("--prefix", default="", help="prefix for new column names, if the input already has them")
    parser.add_argument("--batch-size", type=whole, default=64, help="rows of a batch (64)")
    parser.add_argument("--max-length", type=whole, help="maximum text length, in tokens")
    parser.add_argument("--chunk-rows", type=whole, default=10_000, help="maximum rows per part (10,000)")
    parser.add_argument("--actors", type=whole, default=1, help="number of actors (1)")
    parser.add_argument("--cpus-per-actor", type=whole, default=1, help="CPUs and threads per actor (1)")
    parser.add_argument("--gpus-per-actor", type=share, default=0, help="may be a fraction, for example 0.5 (0)")
    parser.add_argument(
        "--address", default="local", help="Ray cluster, `auto` for a running local one; by default one is started"
    )
    return parser.parse_args(arguments)


def checked_columns(schema: pa.Schema, scoring: Scoring) -> None:
    """Reject columns that are missing or not text, and new ones that already exist."""
    for flag, name in zip(("--column", "--pair-column"), scoring.columns, strict=False):
        found = schema.get_all_field_indices(name)
        if len(found) != 1:
            raise ValueError(f"{flag}: must be one column of INPUT, {scoring_plan.describe(schema)}, got {name!r}.")
        kind = schema.field(found[0]).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(f"{flag}: must be a column of texts, got {name!r} of {kind}.")
    taken = sorted(set(scoring.names()) & set(schema.names))
    if taken:
        raise ValueError(
            f"--prefix: new columns must not be in INPUT already, got {taken}. Try --prefix sidenet_{scoring.prefix}"
        )


def checked_places(source: str, output: str) -> None:
    """Reject an output that the next run would read as its input."""
    folder, target = Path(source).resolve(), Path(output).resolve()
    if target == folder or folder in target.parents:
        raise ValueError(f"OUTPUT: must not be in INPUT, got {output!r} in {source!r}.")


def start_ray(args: argparse.Namespace) -> Any:
    """Return Ray, connected to the cluster that runs the actors.

    Raises:
        ImportError: Ray is not installed.
        ValueError: Ray has too few CPUs or GPUs.
    """
    # Before the import, which reads it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray starts its workers at nice 15: on a busy machine they would get almost no CPU time.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if args.address == "local":
        choose_token()
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    needed = {"CPU": args.actors * args.cpus_per_actor, "GPU": args.actors * args.gpus_per_actor}
    settings = {}
    if args.address == "local":
        settings = {"include_dashboard": False, "num_cpus": min(needed["CPU"], os.cpu_count())}
    ray.init(address=args.address, log_to_driver=False, logging_level=logging.WARNING, **settings)
    there = ray.cluster_resources()
    for flag, kind in (("--cpus-per-actor", "CPU"), ("--gpus-per-actor", "GPU")):
        if needed[kind] > there.get(kind, 0):
            raise ValueError(
                f"{flag}: Ray must have {needed[kind]:g} {kind}s for {args.actors} actors, got {there.get(kind, 0):g}."
            )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    data.DataContext.get_current().enable_progress_bars = False
    # Other machines do not have these files.
    for module in (scoring_actor, scoring_plan):
        ray.cloudpickle.register_pickle_by_value(module)
    return data


def score(
    data: Any, chunks: Sequence[Chunk], scoring: Scoring, output: str, fingerprint: str, args: argparse.Namespace
) -> Iterator[tuple[int, str]]:
    """Yield the rows and worker of each part as it is written.

    Raises:
        RuntimeError: a chunk cannot be scored.
    """
    # Ray Data restarts dead actors, with their chunks, without limit; `Score` detects a chunk that kills all of them.
    done = data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks)).map_batches(
        Score,
        fn_constructor_args=(scoring, output, fingerprint),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=args.actors, max_tasks_in_flight_per_actor=CHUNKS_PER_ACTOR),
        num_cpus=args.cpus_per_actor,
        num_gpus=args.gpus_per_actor,
    )
    for part in done.iter_rows():
        if part["error"]:
            raise RuntimeError(f"{part['error']} Finished parts are kept: run the same command again for the rest.")
        yield part["rows"], part["worker"]


def run(args: argparse.Namespace) -> None:
    output = str(Path(args.output).resolve())
    checkpoint = str(Path(args.checkpoint).resolve()) if Path(args.checkpoint).exists() else args.checkpoint
    scoring = Scoring(
        checkpoint,
        (args.column, args.pair_column) if args.pair_column is not None else (args.column,),
        thresholds=args.thresholds[0] if len(args.thresholds or ()) == 1 else args.thresholds,
        batch_size=args.batch_size,
        max_length=args.max_length,
        prefix=args.prefix,
        num_threads=args.cpus_per_actor,
        on_gpu=args.gpus_per_actor > 0,
        num_actors=args.actors,
    )
    sources, schema = find_sources(args.input)
    checked_columns(schema, scoring)
    checked_places(args.input, output)
    chunks = plan(sources, args.chunk_rows)
    # It answers nothing in this process.
    about = identity(*scoring.runner("cpu"))
    warning = open_output(output, describe_job(sources, chunks, args.chunk_rows, scoring, about))
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    left = missing(output, chunks)
    if len(left) < len(chunks):
        print(f"resumed: {len(chunks) - len(left)} of {len(chunks)} parts were there", flush=True)
    total, rows = sum(chunk.rows for chunk in chunks), sum(chunk.rows for chunk in left)
    about_run: dict[str, Any] = {"resumed_parts": len(chunks) - len(left)}
    if left:
        data = start_ray(args)
        started, workers = time.perf_counter(), set()
        with tqdm(total=total, initial=total - rows, unit=" rows", desc="Scoring") as bar:
            for number, worker in score(data, left, scoring, output, about["weights"], args):
                workers.add(worker)
                bar.update(number)
        seconds = time.perf_counter() - started
        about_run |= {"scored_rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}
    check_unchanged(args.input, sources)
    lost = missing(output, chunks)
    if lost:
        raise RuntimeError(f"{len(lost)} of {len(chunks)} parts are not in {output!r}: do all machines write there?")
    summary = {
        **summarize(output, chunks, scoring, len(about["exit_layers"]) + 1),
        "thresholds": about["thresholds"],
        **about_run,
    }
    finish(output, summary)
    print(f"\n{summary_text(summary)}")
    theta = "/".join(f"{value:g}" for value in about["thresholds"])
    print(f"\n{total} rows in {len(chunks)} parts in {args.output}, θ = {theta}.", end="")
    if left:
        more = f" by {len(workers)} processes for {args.actors} actors" if len(workers) > args.actors else ""
        print(f" This run: {rows} rows in {seconds:.1f} s, {rows / seconds:.1f} rows/s{more}.", end="")
    print()


def main() -> None:
    args = parse()
    transformers_logging.disable_progress_bar()
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit("stopped. Finished parts are kept: run the same command again for the rest.")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
