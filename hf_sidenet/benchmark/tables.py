# SPDX-License-Identifier: Apache-2.0
"""Measurements as tables: Markdown, readable in a terminal, and CSV."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from ..io.tables import markdown_table
from .measures import PERCENTILES, MethodResult, SizeResult, StageResult
from .methods import order_name
from .verdict import Verdict


# Fields with several values, each of which gets its own column in CSV.
SEVERAL = ("latency_ms", "shares", "notes")
LEGEND = """\
Each method's twin is the plain MainNet in the same precision, engine and order. All methods were interleaved batch \
by batch on the same rows, in {repeats} rounds after a warm-up; times are sums over batches of the median over \
rounds. {num_threads} CPU threads, device {device}. The largest difference between rounds of one method is \
{spread:.0f} % of its median.
- order: mixed (original order) or by length (sorted within a window of 32 batches).
- p50, p95, p99: milliseconds from the start of the call that brought a row to its answer, while rows arrive without \
a pause. Includes waiting for other rows, but not the time to collect a batch or a window.
- exits %: share of rows answered at each exit, SideNets first.
- ideal: time if splitting batches were free, Σ over batches of t0 + Σ (fraction that reached stage k) · tk, with the \
times of each stage alone on the same padded batches in this run. of ideal: ideal time / time. Above 1: rows of \
several batches continued together at a better batch size.
- (t0 + t1 + …) / plain: all stages in sequence, relative to the plain MainNet. It should be near 1, at batch size 1 \
up to a tenth more per SideNet; otherwise the machine was too busy: run the benchmark again.
- × twin: throughput as a multiple of the twin's at this batch size; × its best: at the batch size that suits the \
twin best.
- other: rows with another class than in the checkpoint's own forward (for plain methods: than in its MainNet), in \
float32 if that is compared, and after the slash rows that exited elsewhere. In float32, ours should have 0/0."""


def text_of(
    sizes: Sequence[SizeResult],
    verdict: Verdict,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
) -> str:
    """Return the text of a result.

    Args:
        sizes (`Sequence[SizeResult]`): the measurements.
        verdict ([`Verdict`]): their verdict.
        settings (`Mapping[str, Any]`): settings of [`BenchmarkResult`].
        about (`Mapping[str, Any]`): description of model and data.
    """
    parts = []
    if about:
        parts.append("\n".join(f"- {name}: {value}" for name, value in about.items()))
    parts.append(_capital(verdict.text) + ".")
    parts.append("\n".join(f"- {_capital(each.text)}." for each in verdict.sizes))
    if verdict.left_out:
        drop = f"{100 * settings['max_accuracy_drop']:g} % of the rows"
        names = [f"{name} (batch size {', '.join(map(str, at))})" for name, at in verdict.left_out.items()]
        parts.append(f"Not counted, since their accuracy is lower by more than {drop}: {'; '.join(names)}.")
    for size in sizes:
        parts.append(f"## Batch size {size.batch_size}, {size.num_rows:,} rows")
        parts.append(method_table(size.methods))
        if size.stages:
            parts.append(stage_table(size.stages))
    spread = 100 * max(result.spread for size in sizes for result in size.methods)
    parts.append(LEGEND.format(**{**settings, "spread": spread}))
    notes = _notes(sizes)
    if notes:
        parts.append("\n".join(["Notes:", "", *(f"- {note}" for note in notes)]))
    return "\n\n".join(parts)


def method_table(methods: Sequence[MethodResult]) -> str:
    """Return a table with one line per method; empty columns are left out."""
    columns: list[tuple[str, Callable[[MethodResult], str | None]]] = [
        ("method", lambda r: r.name),
        ("rows/s", lambda r: f"{r.rows_per_second:,.0f}"),
        ("ms/row", lambda r: f"{r.milliseconds:.3f}"),
        ("p50 ms", lambda r: f"{r.latency_ms[0]:.1f}"),
        ("p95", lambda r: f"{r.latency_ms[1]:.1f}"),
        ("p99", lambda r: f"{r.latency_ms[2]:.1f}"),
        ("accuracy %", lambda r: f"{100 * r.accuracy:.1f}"),
        ("exits %", lambda r: "/".join(f"{100 * share:.0f}" for share in r.shares) if len(r.shares) > 1 else None),
        ("ideal ms/row", lambda r: _number(r.ideal_milliseconds, 3)),
        ("of ideal", lambda r: _number(r.efficiency, 2)),
        ("× twin", lambda r: _number(r.ratio, 2)),
        ("× its best", lambda r: _number(r.best_ratio, 2)),
        ("other", _other),
        ("peak MB", lambda r: _number(r.memory_mb, 0)),
    ]
    cells = [[value(result) for _, value in columns] for result in methods]
    known = [i for i in range(len(columns)) if any(line[i] is not None for line in cells)]
    header = [columns[i][0] for i in known]
    return markdown_table(header, [[line[i] or "–" for i in known] for line in cells], padded=True)


def stage_table(stages: Sequence[StageResult]) -> str:
    """Return a table with one line per chain of stages and order."""
    count = max(len(each.milliseconds) for each in stages)
    header = ["stages alone, ms/row", *(f"t{k}" for k in range(count)), "(t0 + t1 + …) / plain"]
    lines = [
        [
            f"{each.precision}, {each.engine}, {order_name(each.bucketed)}",
            *(f"{time:.3f}" for time in each.milliseconds),
            *["–"] * (count - len(each.milliseconds)),
            _number(each.sum_ratio, 2) or "–",
        ]
        for each in stages
    ]
    return markdown_table(header, lines, padded=True)


def write_results_csv(
    sizes: Sequence[SizeResult],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    path: str | os.PathLike,
) -> None:
    """Write one line per batch size and method.

    Args:
        sizes (`Sequence[SizeResult]`): the measurements.
        settings (`Mapping[str, Any]`): settings of [`BenchmarkResult`].
        environment (`Mapping[str, Any]`): environment of [`BenchmarkResult`].
        path (`str` or `os.PathLike`): output file.
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


def _other(result: MethodResult) -> str | None:
    if result.other_labels is None:
        return None
    return f"{result.other_labels}/{result.other_exits}"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _notes(sizes: Sequence[SizeResult]) -> list[str]:
    """Return the notes on methods, without repetition."""
    found: dict[str, dict[str, list[int]]] = {}
    for size in sizes:
        for result in size.methods:
            for note in result.notes:
                found.setdefault(result.name, {}).setdefault(note, []).append(size.batch_size)
    everywhere = len(sizes)
    return [
        f"{name}: "
        + "; ".join(
            note if len(at) == everywhere else f"{note} at batch size {', '.join(map(str, at))}"
            for note, at in notes.items()
        )
        for name, notes in found.items()
    ]


def _columns(result: MethodResult, num_exits: int) -> dict[str, Any]:
    values = asdict(result)
    found = {field.name: values[field.name] for field in fields(result) if field.name not in SEVERAL}
    found |= {f"p{percent}_ms": value for percent, value in zip(PERCENTILES, result.latency_ms, strict=True)}
    shares = [*result.shares, *[0.0] * (num_exits - len(result.shares))]
    found |= {f"share_of_exit_{k}": share for k, share in enumerate(shares)}
    return found | {"notes": "; ".join(result.notes)}
