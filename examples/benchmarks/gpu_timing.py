# SPDX-License-Identifier: Apache-2.0
"""Clock, memory and trace of gpu.py."""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hf_sidenet.inference.engine import padding_of
from hf_sidenet.inference.protocols import StageChain
from hf_sidenet.inference.rows import Prediction, Row, collate


# A stage is called repeatedly for this long, after some warm-up calls.
STAGE_SECONDS, STAGE_WARM_UP = 0.2, 3


def run(engine: Any, rows: Sequence[Row], batch_size: int) -> tuple[float, list[Prediction]]:
    """Return the seconds until every answer is on the host, and the answers."""
    done = []
    start = time.perf_counter()
    for i in range(0, len(rows), batch_size):
        done += engine.put(rows[i : i + batch_size])
    done += engine.flush()
    return time.perf_counter() - start, done


def take_turns(
    engines: dict[str, Any], rows: Sequence[Row], batch_size: int, repeats: int
) -> dict[str, tuple[float, list[Prediction]]]:
    """Time engines interleaved; return median milliseconds per row of each, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    answers = {}
    for _ in range(repeats):
        for name, engine in engines.items():
            taken, answers[name] = run(engine, rows, batch_size)
            seconds[name].append(taken)
    return {name: (1e3 * median(times) / len(rows), answers[name]) for name, times in seconds.items()}


def stage_milliseconds(stages: StageChain, rows: Sequence[Row]) -> list[float]:
    """Measure milliseconds per row of each stage alone, all rows at each, with its inputs on the device.

    Args:
        stages ([`StageChain`]): the chain.
        rows (`Sequence[Row]`): a batch of equal lengths.
    """
    times, hidden = [], None
    inputs = collate(rows, padding_of(stages), stages.device).inputs
    for index in range(len(stages)):
        call = partial(stages, index, hidden, inputs)
        times.append(1e3 * _seconds_of(call, stages.device) / len(rows))
        hidden, _ = call()
        if not stages.modality.has_tokens:
            # After stage 0, one image represents the size of all.
            inputs = {name: value[:1] for name, value in inputs.items()}
    return times


def _seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    for _ in range(STAGE_WARM_UP):
        call()
    synchronize(device)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < STAGE_SECONDS:
        for _ in range(5):
            call()
        synchronize(device)
        count += 5
    return (time.perf_counter() - start) / count


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU needs no waiting."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    """Return the bytes that tensors currently hold on a GPU; 0 without one."""
    if device.type != "cuda":
        return 0
    gc.collect()
    synchronize(device)
    return torch.cuda.memory_allocated(device)


def peak(engine: Any, rows: Sequence[Row], batch_size: int, device: torch.device) -> int:
    """Return the peak bytes of a run beyond those allocated before it."""
    before = allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(engine, rows, batch_size)
    return torch.cuda.max_memory_allocated(device) - before


def trace(engine: Any, rows: Sequence[Row], batch_size: int, device: torch.device) -> tuple[dict[str, int], str]:
    """Profile a run: copies to the host, waits, and the profiler's table.

    Returns:
        `(counts, table)`: `copies` from the device to the host, how many of them are `pinned`, that is, asynchronous;
        how often the host `waits` for a stream or the whole device, and for `events`.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    run(engine, rows, batch_size)
    synchronize(device)
    with profile(activities=activities) as profiler:
        run(engine, rows, batch_size)
    names = [event.name for event in profiler.events()]
    counts = {
        "copies": sum("DtoH" in name for name in names),
        "pinned": sum("DtoH" in name and "Pinned" in name for name in names),
        "waits": sum("StreamSynchronize" in name or "DeviceSynchronize" in name for name in names),
        "events": sum("EventSynchronize" in name for name in names),
    }
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return counts, profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60)
