# SPDX-License-Identifier: Apache-2.0
"""Send a bounded load to a server of serve_with_ray.py: throughput, latency, and whether anything is lost.

    python examples/distributed/load_test.py http://127.0.0.1:8000 --file dev.tsv --requests 2000 --concurrency 32

Only addresses on this machine are allowed.
"""

import argparse
import asyncio
import ipaddress
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from hf_sidenet.data.loading import read_file
from hf_sidenet.optional import require


# The maximum load, whatever is requested.
MAX_REQUESTS = 100_000
TIMEOUT_S = 120


@dataclass
class Load:
    """The result of a load.

    Args:
        seconds (`float`): from the first request to the last answer.
        latencies (`list[float]`): seconds of each request answered with 200.
        statuses (`Counter`): requests by HTTP status; 0 if the connection broke or no answer came in time.
        exits (`Counter`): rows by the exit that answered them.
        answers (`dict[int, list]`): predictions by request number.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    exits: Counter = field(default_factory=Counter)
    answers: dict[int, list] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the number of answered rows."""
        return sum(self.exits.values())

    @property
    def rows_per_second(self) -> float:
        """Return the answered rows per second."""
        return self.rows / self.seconds

    def percentile(self, q: float) -> float:
        """Return the latency in milliseconds that `q` percent of the answered requests stay below."""
        return 1e3 * float(np.percentile(self.latencies, q)) if self.latencies else float("nan")


async def send_load(
    url: str,
    bodies: Sequence[dict],
    concurrency: int,
    *,
    progress: bool = True,
    timeout_s: float = TIMEOUT_S,
    load: Load | None = None,
) -> Load:
    """Send every body once, `concurrency` at a time. Each client waits for its answer before it sends another.

    Args:
        url (`str`): of the server, on this machine.
        bodies (`Sequence[dict]`): of the requests.
        concurrency (`int`): clients.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        timeout_s (`float`, *optional*, defaults to 120): after which a request counts as lost.
        load ([`Load`], *optional*): filled in as the load runs, to show its progress to others; by default a new one.

    Raises:
        ValueError: the address is not on this machine, or there are too many requests.
    """
    check_local(url)
    if not 0 < len(bodies) <= MAX_REQUESTS:
        raise ValueError(f"`bodies` must be from 1 to {MAX_REQUESTS}, got {len(bodies)}.")
    aiohttp = require("aiohttp", "ray")
    load, waiting = Load() if load is None else load, iter(enumerate(bodies))
    bar = tqdm(total=len(bodies), desc="Requests", disable=not progress)
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    connector = aiohttp.TCPConnector(limit=concurrency)

    async def client(session) -> None:
        for number, body in waiting:
            start = time.perf_counter()
            try:
                async with session.post(f"{url}/classify", json=body) as response:
                    found = await response.json()
                    status = response.status
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
                status = 0
            load.statuses[status] += 1
            if status == 200:
                load.latencies.append(time.perf_counter() - start)
                load.exits.update(each["exit"] for each in found)
                load.answers[number] = found
            bar.update()

    begun = time.perf_counter()
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    load.seconds = time.perf_counter() - begun
    bar.close()
    return load


def check_local(url: str) -> None:
    """Reject a load on other machines.

    Raises:
        ValueError: the address is not on this machine.
    """
    host = urlsplit(url).hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(f"`url` must be on this machine, for example http://127.0.0.1:8000, got {url!r}.")


def read_texts(path: str, column: str) -> list[str]:
    """Read the texts in a column of a CSV, TSV, JSON, JSONL or Parquet file.

    Raises:
        ValueError: the file cannot be read, or has no such column.
    """
    rows = read_file("--file", path)
    if column not in rows.column_names:
        raise ValueError(f"--column: must be one of {rows.column_names}, got {column!r}.")
    return [text for text in rows[column] if text]


def make_bodies(texts: Sequence[str], count: int, rows: int, thresholds: list[float] | None, seed: int) -> list[dict]:
    """Make requests of `rows` texts each, drawn from the whole file."""
    draw = random.Random(seed)
    parameters = {} if thresholds is None else {"parameters": {"thresholds": thresholds}}
    return [{"inputs": [draw.choice(texts) for _ in range(rows)], **parameters} for _ in range(count)]


def describe(load: Load) -> str:
    """For people."""
    total = sum(load.statuses.values())
    lost = total - load.statuses[200]
    shares = ", ".join(f"exit {exit} {count / load.rows:.1%}" for exit, count in sorted(load.exits.items()))
    times = f"p50 {load.percentile(50):.0f} ms, p99 {load.percentile(99):.0f} ms"
    return (
        f"{load.rows} rows in {load.seconds:.1f} s, {load.rows_per_second:.0f} rows/s; per request {times}; "
        f"{lost} of {total} requests without an answer {dict(load.statuses) if lost else ''}\n{shares}"
    )


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL of the server, on this machine")
    parser.add_argument("--file", required=True, help="csv, tsv, json, jsonl or parquet file with texts")
    parser.add_argument("--column", default="text", help="column with the texts (text)")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rows-per-request", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32, help="clients at a time (32)")
    parser.add_argument("--thresholds", type=float, nargs="+", help="θ of these requests")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Send the load and print the result."""
    args = parse()
    try:
        texts = read_texts(args.file, args.column)
        bodies = make_bodies(texts, args.requests, args.rows_per_request, args.thresholds, args.seed)
        print(describe(asyncio.run(send_load(args.url, bodies, args.concurrency))))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
