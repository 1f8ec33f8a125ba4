# SPDX-License-Identifier: Apache-2.0
"""Serve a checkpoint with SideNets on Ray Serve: one deployment per stage, so that each batches and scales by itself.

python examples/distributed/serve_with_ray.py my-classifier-sidenet --replicas 2 1 1
curl -s localhost:8000/classify -H 'Content-Type: application/json' -d '{"inputs": "a gripping film"}'
"""

import argparse
import math
import os

# First: Ray reads the environment when it is imported.
from local_ray import choose_token


# Ray's own switch for less work per request. Local Ray processes inherit it; on a cluster every node must set it.
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
# Without the port that Ray would open in every API process, bypassing the proxy.
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")
# On a busy machine Ray's proxy takes longer to start than the 5 s after which it would be killed and restarted.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
# Ray starts its workers at nice 15: on a busy machine they would get almost no CPU time.
os.environ.setdefault("RAY_worker_niceness", "0")
# No usage statistics, unless requested.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from serve_api import Api, build_app
from serve_settings import Settings
from serve_stage import StageReplica
from serve_watcher import Watcher

from hf_sidenet.optional import require


ray = require("ray", "ray")
serve = require("ray.serve", "ray")

# Requests that a replica accepts at a time: the running batch and the next ones.
BATCHES_AT_A_TIME = 4
API_REQUESTS_AT_A_TIME = 1000
# The server's own limits apply first; this one is for requests that wait for an API process.
GRACE_S = 5


def build(settings: Settings, name: str = "sidenet") -> Any:
    """Build the application, for `serve.run` or `serve build`.

    Args:
        settings ([`Settings`]): of the server.
        name (`str`, *optional*, defaults to `"sidenet"`): of the application.
    """
    stages = [
        serve.deployment(StageReplica, name=stage_name(index))
        .options(
            **scaled(low, high, settings.batch_size),
            ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
            max_ongoing_requests=BATCHES_AT_A_TIME * settings.batch_size,
            max_queued_requests=settings.max_waiting,
        )
        .bind(settings, index)
        for index, (low, high) in enumerate(settings.replicas_by_stage)
    ]
    watchers = []
    if settings.watch_share:
        # There must be only one, or rows would be counted in several places.
        options = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 1000}
        watchers.append(serve.deployment(Watcher, name="watcher").options(**options).bind(settings))
    api = serve.deployment(serve.ingress(http_app(settings, name))(), name="api").options(
        num_replicas=settings.api_replicas,
        ray_actor_options={"num_cpus": settings.api_cpus},
        # Requests whose bodies are being read leave room for the others.
        max_ongoing_requests=settings.max_bodies + API_REQUESTS_AT_A_TIME,
        max_queued_requests=API_REQUESTS_AT_A_TIME,
    )
    return api.bind(*stages, *watchers)


def stage_name(index: int) -> str:
    """Return the name of a stage's deployment."""
    return f"stage_{index}"


def scaled(low: int, high: int, batch_size: int) -> dict[str, Any]:
    """Return the number of replicas, or its range, aiming at one running and one waiting batch each."""
    if low == high:
        return {"num_replicas": low}
    target = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": 2 * batch_size}
    return {"autoscaling_config": target}


def http_app(settings: Settings, name: str) -> Callable[[], FastAPI]:
    """Return the function that Ray Serve calls in every API replica."""

    def make() -> Api:
        find = partial(serve.get_deployment_handle, app_name=name)
        stages = [find(stage_name(index)) for index in range(settings.num_stages)]
        return Api(settings, stages, find("watcher") if settings.watch_share else None)

    def build() -> FastAPI:
        return build_app(make, settings)

    return build


def replicas(value: str) -> tuple[int, int]:
    """Parse `2`, or `1:4` for a range that Ray Serve may choose from."""
    low, _, high = value.partition(":")
    return int(low), int(high or low)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a checkpoint with SideNets, or an exported folder")
    parser.add_argument("--plain", action="store_true", help="only the MainNet, for comparison")
    parser.add_argument("--thresholds", type=float, nargs="+", help="θ of each SideNet; by default the checkpoint's")
    parser.add_argument("--replicas", type=replicas, nargs="+", default=[(1, 1)], metavar="N|MIN:MAX",
                        help="processes of each stage, or of all (1)")  # fmt: skip
    parser.add_argument("--api-replicas", type=int, default=1, help="processes of the HTTP side (1)")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs and threads per stage replica (1)")
    parser.add_argument("--api-cpus", type=float, default=1, help="CPUs per HTTP replica (1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per stage replica (0)")
    parser.add_argument("--batch-size", type=int, default=32, help="rows that a stage runs together (32)")
    parser.add_argument("--max-wait-ms", type=float, default=5, help="how long a row waits for others (5)")
    parser.add_argument("--max-waiting", type=int, default=200, help="requests waiting for a stage, then 503 (200)")
    parser.add_argument("--max-length", type=int, help="maximum text length, in tokens")
    parser.add_argument("--max-rows", type=int, default=32, help="inputs per request (32)")
    parser.add_argument("--max-bytes", type=int, default=2**20, help="bytes per request (1 MiB)")
    parser.add_argument("--max-bodies", type=int, default=256, help="requests read at a time, then 503 (256)")
    parser.add_argument("--timeout-s", type=float, default=10, help="for a request and its answer (10)")
    parser.add_argument("--watch-share", type=float, default=0, help="share of rows that the MainNet answers too (0)")
    parser.add_argument("--watch-limit", type=float, help="limit of their disagreement; by default the certified one")
    parser.add_argument("--watch-file", help="JSON Lines file for the newest of these rows")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8080, help="port of Prometheus' /metrics (8080)")
    parser.add_argument("--address", default="local", help="of a Ray cluster; by default one is started locally")
    return parser.parse_args(arguments)


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the settings among the arguments."""
    for name in ("checkpoint", "watch_file"):
        # Ray's processes work in their own folders.
        value = getattr(args, name)
        if value is not None and (name == "watch_file" or Path(value).exists()):
            setattr(args, name, str(Path(value).resolve()))
    names = {each.name for each in fields(Settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}
    return Settings(**{name: value for name, value in given.items() if name in names})


def start_ray(address: str, num_cpus: float, metrics_port: int, num_gpus: float = 0) -> None:
    """Join a cluster, or start one locally: there may then be more processes than cores."""
    if address != "local":
        ray.init(address=address)
        return
    choose_token()
    if num_gpus and not torch.cuda.is_available():
        raise ValueError(f"--gpus: must be 0 on a machine without a GPU, got {num_gpus}.")
    ray.init(
        address="local",
        num_cpus=max(math.ceil(num_cpus), os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=metrics_port,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    args = parse(arguments)
    try:
        settings = read_settings(args)
        start_ray(args.address, settings.num_cpus, args.metrics_port, settings.gpus)
    except OSError as error:
        raise SystemExit(f"error: CHECKPOINT: {args.checkpoint!r} cannot be read: {error}") from error
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    # Ray has its own handlers, which end the process at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        serve_until_interrupted(args, settings)
    except KeyboardInterrupt:
        print("Stopping.", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # On a cluster, others may be serving too.
        serve.shutdown() if args.address == "local" else serve.delete("sidenet")
        ray.shutdown()
    print("Stopped.", flush=True)


def interrupt(*_: Any) -> None:
    """Interrupt, even during startup."""
    raise KeyboardInterrupt


def serve_until_interrupted(args: argparse.Namespace, settings: Settings) -> None:
    """Start, print the address, and wait."""
    options = {
        "host": args.host,
        "port": args.port,
        "request_timeout_s": settings.timeout_s + GRACE_S,
        # Even if Ray has rejected a request itself, and waits for the rest of it.
        "keep_alive_timeout_s": math.ceil(settings.timeout_s),
    }
    serve.start(http_options=options)
    serve.run(build(settings), name="sidenet", route_prefix="/")
    if args.address == "local":
        print(f"http://{args.host}:{args.port}/classify, {settings.num_stages} stages; Ctrl-C stops.", flush=True)
        print(f"http://127.0.0.1:{args.metrics_port}/metrics for Prometheus.", flush=True)
    else:
        # If Serve is already running, it keeps its own host and port.
        print(f"/classify at the cluster's Ray Serve, {settings.num_stages} stages; Ctrl-C stops.", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
