# SPDX-License-Identifier: Apache-2.0
"""The measurements as a CSV file: one line per batch size and method."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from .measures import PERCENTILES, MethodResult, SizeResult


# Fields with several values have columns of their own.
SEVERAL = ("latency_ms", "shares", "notes")


def write_csv(
    sizes: Sequence[SizeResult],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    path: str | os.PathLike,
) -> None:
    """Write one line per batch size and method.

    Args:
        sizes (`Sequence[SizeResult]`): what was measured.
        settings (`Mapping[str, Any]`): of [`BenchmarkResult`].
        environment (`Mapping[str, Any]`): of [`BenchmarkResult`].
        path (`str` or `os.PathLike`): the file.
    """
    num_exits = max(len(result.shares) for size in sizes for result in size.methods)
    lines = [
        {
            "batch_size": size.batch_size,
            "num_rows": size.num_rows,
            "repeats": settings["repeats"],
            "num_threads": settings["num_threads"],
            **_columns(result, num_exits),
            "hardware": environment["hardware"],
            "date": environment["date"],
            **environment["versions"],
        }
        for size in sizes
        for result in size.methods
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _columns(result: MethodResult, num_exits: int) -> dict[str, Any]:
    values = asdict(result)
    found = {field.name: values[field.name] for field in fields(result) if field.name not in SEVERAL}
    found |= {f"p{percent}_ms": value for percent, value in zip(PERCENTILES, result.latency_ms, strict=True)}
    shares = [*result.shares, *[0.0] * (num_exits - len(result.shares))]
    found |= {f"share_of_exit_{k}": share for k, share in enumerate(shares)}
    return found | {"notes": "; ".join(result.notes)}
