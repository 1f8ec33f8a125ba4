# SPDX-License-Identifier: Apache-2.0
"""Compare SideNets and the plain MainNet behind the same server, with the same number of CPUs, under alternating load.

    python examples/distributed/compare_serving.py my-classifier-sidenet --file dev.tsv --output-dir outputs/serving

Prints throughput, latency and the CPU time of each kind of process per request, and writes `serving.csv`, from
which plan_replicas.py computes replicas. In one more round, a replica of stage 0 is killed.
"""

import argparse
import asyncio
import csv
import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from load_test import Load, describe, make_bodies, read_texts, send_load
from serve_processes import cpu_seconds, kill_a_replica
from serve_settings import Settings
from serve_with_ray import build, start_ray

from hf_sidenet.io.files import replacing
from hf_sidenet.optional import require


ray = require("ray", "ray")
serve = require("ray.serve", "ray")

SIDENETS, PLAIN = "sidenets", "plain"
WARM_UP = 100


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a checkpoint with SideNets")
    parser.add_argument("--file", required=True, help="csv, tsv, json, jsonl or parquet file with texts")
    parser.add_argument("--column", default="text", help="column with the texts (text)")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1], help="replicas of each stage, or of all (1)")
    parser.add_argument("--plain-replicas", type=int, help="replicas of the plain MainNet (the stages' total)")
    parser.add_argument("--requests", type=int, default=400, help="requests per round (400)")
    parser.add_argument("--rows-per-request", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout-s", type=float, default=60, help="for a request, on the server (60)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8080)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def round_with_a_kill(side: "Side", bodies: Sequence[dict], concurrency: int) -> Load:
    """Send a load and, when a quarter of it has been answered, kill a replica of stage 0."""
    load = Load()
    sending = asyncio.ensure_future(
        send_load(side.url, bodies, concurrency, timeout_s=2 * side.settings.timeout_s, load=load)
    )
    while sum(load.statuses.values()) < len(bodies) // 4 and not sending.done():
        await asyncio.sleep(0.01)
    if sending.done():
        raise ValueError("--requests: must be more, the round ended before a replica was killed.")
    kill_a_replica(side.name, "stage_0", os.getpid())
    return await sending


class Side:
    """One of the two servers, and its measurements.

    Args:
        name (`str`): name of its application.
        settings ([`Settings`]): its settings.
        port (`int`): port of both servers.
    """

    def __init__(self, name: str, settings: Settings, port: int):
        self.name, self.settings = name, settings
        self.url = f"http://127.0.0.1:{port}/{name}"
        self.loads: list[Load] = []
        self.cpu: Counter = Counter()

    def start(self) -> None:
        """Start its application."""
        serve.run(build(self.settings, self.name), name=self.name, route_prefix=f"/{self.name}")

    def measure(self, bodies: Sequence[dict], concurrency: int) -> None:
        """A round."""
        before = cpu_seconds(os.getpid())
        timeout_s = 2 * self.settings.timeout_s
        self.loads.append(asyncio.run(send_load(self.url, bodies, concurrency, timeout_s=timeout_s)))
        used = cpu_seconds(os.getpid())
        used.subtract(before)
        for (application, kind), seconds in used.items():
            if application in ("", self.name):
                self.cpu[kind] += seconds

    @property
    def num_rows(self) -> int:
        """Return the number of answered rows."""
        return sum(load.rows for load in self.loads)

    def costs(self) -> list[dict[str, Any]]:
        """Return CPU milliseconds per row for every kind of process, over all rounds."""
        return [
            {"server": self.name, "process": kind, "cpu_ms_per_row": 1e3 * seconds / self.num_rows}
            for kind, seconds in sorted(self.cpu.items())
        ]

    def row(self) -> str:
        """Return its row of the table."""
        speed = median(load.rows_per_second for load in self.loads)
        low, high = (pick(load.rows_per_second for load in self.loads) for pick in (min, max))
        p50, p99 = (median(load.percentile(q) for load in self.loads) for q in (50, 99))
        lost = sum(sum(load.statuses.values()) - load.statuses[200] for load in self.loads)
        cpu = sum(self.cpu.values()) / self.num_rows
        rates = f"{speed:.0f} ({low:.0f} to {high:.0f})"
        return f"| {self.name} | {rates} | {p50:.0f} | {p99:.0f} | {1e3 * cpu:.1f} | {lost} |"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Written atomically."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure and print."""
    args = parse()
    texts = read_texts(args.file, args.column)
    shared = {"max_waiting": 10 * args.concurrency, "api_cpus": 1, "timeout_s": args.timeout_s}
    ours = Settings(args.checkpoint, replicas=tuple((n, n) for n in args.replicas), **shared)
    total = args.plain_replicas or sum(low for low, _ in ours.replicas_by_stage)
    plain = Settings(args.checkpoint, plain=True, replicas=((total, total),), **shared)
    start_ray("local", ours.num_cpus + plain.num_cpus, args.metrics_port)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": args.port})
        sides = [Side(SIDENETS, ours, args.port), Side(PLAIN, plain, args.port)]
        for side in sides:
            side.start()
            asyncio.run(send_load(side.url, make_bodies(texts, WARM_UP, 1, None, args.seed), args.concurrency))
        for turn in range(args.rounds):
            bodies = make_bodies(texts, args.requests, args.rows_per_request, None, args.seed + turn)
            for side in sides if turn % 2 == 0 else sides[::-1]:
                side.measure(bodies, args.concurrency)
        bodies = make_bodies(texts, args.requests, args.rows_per_request, None, args.seed + args.rounds)
        killed = asyncio.run(round_with_a_kill(sides[0], bodies, args.concurrency))
    finally:
        serve.shutdown()
        ray.shutdown()
    ratios = [a.rows_per_second / b.rows_per_second for a, b in zip(sides[0].loads, sides[1].loads, strict=True)]
    report(args, sides, ratios, killed, total)


def report(args: argparse.Namespace, sides: Sequence[Side], ratios: list[float], killed: Load, total: int) -> None:
    """Print the table and write the costs."""
    print(
        f"{total} replicas of the plain MainNet, {sides[0].settings.replicas_by_stage} of the stages (min, max); "
        f"{args.rounds} alternating rounds of {args.requests} requests of {args.rows_per_request} "
        f"row(s), {args.concurrency} clients, on this machine: {platform.processor() or platform.machine()}, "
        f"{psutil.cpu_count()} cores; torch {version('torch')}, transformers {version('transformers')}, ray "
        f"{version('ray')}, seed {args.seed}\n"
    )
    print("| server | rows/s, median (from, to) | p50 ms | p99 ms | CPU ms per row, all processes | lost |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        print(side.row())
    print(f"\nthroughput, SideNets / plain, by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"a replica of stage 0 killed: {describe(killed)}\n")
    total_rows = sum((load.exits for load in sides[0].loads), Counter())
    reaching = {
        f"stage_{index}": sum(total_rows[exit] for exit in total_rows if exit >= index) / sides[0].num_rows
        for index in range(max(total_rows) + 1)
    }
    rows = [
        {**row, "share_of_rows": reaching.get(row["process"], 1.0) if side.name == SIDENETS else 1.0}
        for side in sides
        for row in side.costs()
    ]
    print("| server | process | CPU ms per row of all rows | share of rows that reach it |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['server']} | {row['process']} | {row['cpu_ms_per_row']:.2f} | {row['share_of_rows']:.2f} |")
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    write_csv(Path(args.output_dir) / "serving.csv", rows)


if __name__ == "__main__":
    main()
