# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a method, measured in a fresh process that loads only what it needs and answers some batches.

On a GPU it is the peak memory allocated by PyTorch, otherwise the peak resident memory of the process, including
Python and PyTorch.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..inference.rows import Row
from .methods import Method


MEGABYTE = 1e6
STATUS = Path("/proc/self/status")


def peak_memory(method: Method, batches: Sequence[Sequence[Row]], device: torch.device) -> float | None:
    """Return the peak memory of a method in MB, `None` if it has no recipe.

    Args:
        method ([`Method`]): method with a `recipe`.
        batches (`Sequence[Sequence[Row]]`): real rows.
        device (`torch.device`): device it runs on.

    Raises:
        RuntimeError: the process failed.
    """
    if method.recipe is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.safetensors"
        rows = [row for batch in batches for row in batch]
        # safetensors rejects tensors that share memory.
        inputs = {_key(i, name): value.clone() for i, row in enumerate(rows) for name, value in row.inputs.items()}
        save_file(inputs, path)
        order = {
            "recipe": method.recipe,
            "inputs": str(path),
            "rows": [[row.place, list(row.inputs), row.length, row.thresholds] for row in rows],
            "batch_sizes": [len(batch) for batch in batches],
            "device": str(device),
            "num_threads": torch.get_num_threads(),
        }
        # Not `-m`: the package has already imported this module.
        command = [sys.executable, "-c", f"from {__name__} import {answer_order.__name__} as run; run()"]
        done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process that measures the memory of {method.name!r} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(order: dict[str, Any]) -> float:
    """Answer some batches in this process and return its peak memory in MB.

    Args:
        order (`dict[str, Any]`): order of [`peak_memory`].
    """
    torch.set_num_threads(order["num_threads"])
    where, arguments = order["recipe"]
    module, _, function = where.partition(":")
    method = getattr(importlib.import_module(module), function)(**arguments)
    batches = [method.rows(batch) for batch in _batches(order)]
    answerer = method.make(max(map(len, batches)), batches)
    with torch.inference_mode():
        for batch in batches:
            answerer.put(batch)
        answerer.flush()
    if order["device"].startswith("cuda"):
        return torch.cuda.max_memory_allocated() / MEGABYTE
    return _peak_resident() / MEGABYTE


def _batches(order: dict[str, Any]) -> list[list[Row]]:
    inputs = load_file(order["inputs"])
    rows = iter(
        Row(place, {name: inputs[_key(i, name)] for name in names}, length, tuple(thresholds))
        for i, (place, names, length, thresholds) in enumerate(order["rows"])
    )
    return [list(islice(rows, size)) for size in order["batch_sizes"]]


def _key(number: int, name: str) -> str:
    return f"{number}.{name}"


def _peak_resident() -> float:
    """Return the peak resident memory in bytes. On Linux, `getrusage` would include the parent's from the fork."""
    if STATUS.exists():
        return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if "VmHWM" in line)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def answer_order() -> None:
    """Run in the other process: read an order from standard input, write MB to standard output."""
    print(measure_here(json.load(sys.stdin)))
