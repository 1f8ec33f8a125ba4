# SPDX-License-Identifier: Apache-2.0
"""Run a benchmark: every method at every batch size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from ..inference.rows import Row, evenly_spaced
from ..models.errors import ArgumentError
from .interleave import MethodClock, StageClock, interleave
from .measures import SizeResult, summarize, with_best_ratios
from .memory import peak_memory
from .methods import Method, check_methods
from .result import BenchmarkResult, environment
from .rows import MAX_BATCHES, OrderedBatches, cut


BATCH_SIZES = (1, 8, 32, 128)
# Minimum rows and batches to prepare on, e.g. for a runner that measures its routings.
SAMPLE_ROWS, SAMPLE_BATCHES = 64, 2
# Memory is measured at this batch size if it is among the batch sizes.
MEMORY_BATCH_SIZE = 32


def run_benchmark(
    methods: Sequence[Method],
    rows: Sequence[Row],
    labels: Sequence[int],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    repeats: int = 3,
    max_batches: int = MAX_BATCHES,
    max_accuracy_drop: float = 0.01,
    memory: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> BenchmarkResult:
    """Time every method on the same rows, interleaved batch by batch.

    Args:
        methods (`Sequence[Method]`):
            Methods in the order of the table. Accuracies are compared with the first plain method's.
        rows (`Sequence[Row]`): real rows in mixed order, with `place` 0, 1, 2, ...
        labels (`Sequence[int]`): their classes.
        batch_sizes (`Sequence[int]`, *optional*, defaults to 1, 8, 32, 128): rows per batch.
        repeats (`int`, *optional*, defaults to 3): timed rounds, after a warm-up round.
        max_batches (`int`, *optional*, defaults to 128): limits the rows at small batch sizes.
        max_accuracy_drop (`float`, *optional*, defaults to 0.01):
            Methods whose accuracy is lower than the first plain method's by more are left out of the verdict.
        memory (`bool`, *optional*, defaults to `False`): measure peak memory at one batch size, each method in its
            own process.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`): device of the methods.
        seed (`int`, *optional*, defaults to 0): seed of the order in which methods run.
        about (`Mapping[str, Any]`, *optional*): description of model and data for the report, with JSON values.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Raises:
        ValueError: an argument is invalid.
        RuntimeError: a method does not answer a row, or the process that measures its memory failed.
    """
    _check(methods, rows, labels, batch_sizes)
    for name, value in (("repeats", repeats), ("max_batches", max_batches)):
        if value < 1:
            raise ArgumentError(name, "must be ≥ 1", value)
    # Also rejects NaN.
    if not 0 <= max_accuracy_drop <= 1:
        raise ArgumentError("max_accuracy_drop", "must be in [0, 1]", max_accuracy_drop)
    rounds = _Rounds(methods, labels, repeats, torch.device(device), seed, progress)
    expected = {method.name: method.expected(rows) for method in methods if method.expected is not None}
    memory_size = MEMORY_BATCH_SIZE if MEMORY_BATCH_SIZE in batch_sizes else max(batch_sizes)
    # First, since its processes may fail and timing takes long.
    peaks = rounds.memory(cut(rows, memory_size, max_batches), memory_size) if memory else {}
    sizes = []
    for batch_size in batch_sizes:
        batches = cut(rows, batch_size, max_batches)
        sizes.append(rounds.time(batches, batch_size, expected, peaks if batch_size == memory_size else {}))
    settings = {
        "batch_sizes": list(batch_sizes),
        "repeats": repeats,
        "max_batches": max_batches,
        "max_accuracy_drop": max_accuracy_drop,
        "memory_batch_size": memory_size if memory else None,
        "seed": seed,
        "num_threads": torch.get_num_threads(),
        "device": str(device),
    }
    return BenchmarkResult(with_best_ratios(sizes), settings, environment(), dict(about or {}))


@dataclass(frozen=True)
class _Rounds:
    """Settings that are the same at every batch size."""

    methods: Sequence[Method]
    labels: Sequence[int]
    repeats: int
    device: torch.device
    seed: int
    progress: bool

    def time(
        self,
        batches: OrderedBatches,
        batch_size: int,
        expected: dict[str, tuple[torch.Tensor, torch.Tensor]],
        memory: dict[str, float | None],
    ) -> SizeResult:
        """Time all methods at one batch size."""
        clocks, stage_clocks = [], []
        bar = logging.tqdm(self.methods, desc=f"Preparing for batch size {batch_size}", disable=not self.progress)
        for method in bar:
            own = batches.of(method.bucketed)
            answerer = method.make(batch_size, [method.rows(batch) for batch in _sample(own, batch_size)])
            clocks.append(MethodClock(method, own, answerer, self.device))
            known = [(clock.method.stages, clock.method.bucketed) for clock in stage_clocks]
            if method.stages is not None and (method.stages, method.bucketed) not in known:
                stage_clocks.append(StageClock(method, own, self.device))
        interleave(
            [*clocks, *stage_clocks],
            len(batches.mixed),
            repeats=self.repeats,
            seed=self.seed,
            progress=self.progress,
            desc=f"Batch size {batch_size}",
        )
        return summarize(batch_size, clocks, stage_clocks, self.labels, expected, memory)

    def memory(self, batches: OrderedBatches, batch_size: int) -> dict[str, float | None]:
        """Measure the peak memory of each method, in MB."""
        bar = logging.tqdm(self.methods, desc="Measuring memory", disable=not self.progress)
        return {
            method.name: peak_memory(method, _with_largest(batches.of(method.bucketed), batch_size), self.device)
            for method in bar
        }


def _sample(batches: list[list[Row]], batch_size: int) -> list[list[Row]]:
    """Return representative batches."""
    return [batches[i] for i in _places(batches, batch_size)]


def _with_largest(batches: list[list[Row]], batch_size: int) -> list[list[Row]]:
    """Return representative batches and the one with the most padded tokens, which determines the peak."""
    largest = max(range(len(batches)), key=lambda i: len(batches[i]) * max(max(row.length, 1) for row in batches[i]))
    return [batches[i] for i in sorted({*_places(batches, batch_size), largest})]


def _places(batches: list[list[Row]], batch_size: int) -> list[int]:
    return evenly_spaced(len(batches), max(SAMPLE_BATCHES, SAMPLE_ROWS // batch_size))


def _check(methods: Sequence[Method], rows: Sequence[Row], labels: Sequence[int], batch_sizes: Sequence[int]) -> None:
    check_methods(methods)
    if not rows or [row.place for row in rows] != list(range(len(rows))):
        raise ArgumentError(
            "rows", f"must be at least one, with `place` 0, 1, 2, ..., got {len(rows)} with other places"
        )
    if len(labels) != len(rows):
        raise ArgumentError("labels", f"must be as many as rows, {len(rows)}, got {len(labels)}")
    if not batch_sizes or min(batch_sizes) < 1 or len(set(batch_sizes)) < len(batch_sizes):
        raise ArgumentError("batch_sizes", f"must be distinct integers ≥ 1, got {list(batch_sizes)}")
