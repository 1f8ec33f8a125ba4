# SPDX-License-Identifier: Apache-2.0
"""From clocks to numbers: throughput, latency, accuracy, and the ideal speed of a method."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import cast

import torch

from ..inference.rows import Row
from .interleave import MethodClock, StageClock
from .methods import Method, twin_of


PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class MethodResult:
    """Measurements of a method at a batch size.

    Args:
        name (`str`): see [`Method`], as for `kind`, `group`, `precision`, `engine` and `bucketed`.
        seconds (`float`): time for all rows: the median over the rounds, summed over the batches.
        rows_per_second (`float`): throughput.
        milliseconds (`float`): time per row.
        spread (`float`): slowest minus fastest round, as a fraction of the median round.
        latency_ms (`list[float]`): 50th, 95th and 99th percentile over rows and rounds.
        accuracy (`float`): fraction of correct answers.
        shares (`list[float]`): fraction of rows answered at each exit, up to the last exit that answered any.
        ideal_milliseconds (`float`, *optional*): ideal time per row, see [`ideal_seconds`].
        efficiency (`float`, *optional*): the ideal time as a fraction of the time.
        twin (`str`, *optional*): name of the method to beat.
        ratio (`float`, *optional*): throughput as a multiple of the twin's at this batch size.
        best_ratio (`float`, *optional*): throughput as a multiple of the twin's at the twin's best batch size.
        other_labels (`int`, *optional*): number of rows with another class than expected.
        other_exits (`int`, *optional*): number of rows answered at another exit than expected.
        memory_mb (`float`, *optional*): peak memory in MB of a process that runs only this method.
        notes (`list[str]`): notes for the reader.
    """

    name: str
    kind: str
    group: str
    precision: str
    engine: str
    bucketed: bool
    seconds: float
    rows_per_second: float
    milliseconds: float
    spread: float
    latency_ms: list[float]
    accuracy: float
    shares: list[float]
    ideal_milliseconds: float | None = None
    efficiency: float | None = None
    twin: str | None = None
    ratio: float | None = None
    best_ratio: float | None = None
    other_labels: int | None = None
    other_exits: int | None = None
    memory_mb: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageResult:
    """Times of the stages of a chain alone, at a batch size and in an order.

    Args:
        precision (`str`): precision of the chain.
        engine (`str`): engine of the chain.
        bucketed (`bool`): order of the rows.
        milliseconds (`list[float]`): time of each stage per row, with all rows in it.
        sum_ratio (`float`, *optional*):
            Their sum as a multiple of the plain MainNet's time. It must be near 1, or a little above where a second
            call and the SideNets matter; otherwise this run cannot be trusted.
    """

    precision: str
    engine: str
    bucketed: bool
    milliseconds: list[float]
    sum_ratio: float | None


@dataclass(frozen=True)
class SizeResult:
    """Everything measured at one batch size.

    Args:
        batch_size (`int`): rows per batch.
        num_rows (`int`): total number of rows.
        methods (`list[MethodResult]`): results in the order of the table.
        stages (`list[StageResult]`): results of each chain and order.
    """

    batch_size: int
    num_rows: int
    methods: list[MethodResult]
    stages: list[StageResult]


def summarize(
    batch_size: int,
    clocks: Sequence[MethodClock],
    stage_clocks: Sequence[StageClock],
    labels: Sequence[int],
    expected: dict[str, tuple[torch.Tensor, torch.Tensor]],
    memory: dict[str, float | None],
) -> SizeResult:
    """Compute the results at one batch size.

    Args:
        batch_size (`int`): rows per batch.
        clocks (`Sequence[MethodClock]`): clocks of the methods, after all rounds.
        stage_clocks (`Sequence[StageClock]`): clocks of their chains.
        labels (`Sequence[int]`): classes by place.
        expected (`dict[str, tuple[torch.LongTensor, torch.LongTensor]]`): class and exit by place, by method name.
        memory (`dict[str, float | None]`): peak memory in MB by method name.
    """
    methods = [clock.method for clock in clocks]
    results = []
    for clock in clocks:
        stages = next((each for each in stage_clocks if _same_stages(clock.method, each.method)), None)
        result = _of_method(clock, stages, labels, expected.get(clock.method.name))
        results.append(replace(result, memory_mb=memory.get(clock.method.name)))
    by_name = {result.name: result for result in results}
    for i, method in enumerate(methods):
        twin = twin_of(method, methods)
        if twin is not None:
            ratio = by_name[twin.name].seconds / results[i].seconds
            results[i] = replace(results[i], twin=twin.name, ratio=ratio)
    chains = [_of_stages(clock, methods, by_name) for clock in stage_clocks]
    return SizeResult(batch_size, len(clocks[0].answers), results, chains)


def with_best_ratios(sizes: Sequence[SizeResult]) -> list[SizeResult]:
    """Return the results with the ratios to each twin at its best batch size."""
    best: dict[str, float] = {}
    for size in sizes:
        for result in size.methods:
            best[result.name] = max(best.get(result.name, 0.0), result.rows_per_second)
    return [
        replace(
            size,
            methods=[
                result
                if result.twin is None
                else replace(result, best_ratio=result.rows_per_second / best[result.twin])
                for result in size.methods
            ],
        )
        for size in sizes
    ]


def ideal_seconds(
    stage_seconds: Sequence[Sequence[float]], batches: Sequence[Sequence[Row]], exit_index: dict[int, int]
) -> float:
    """Return the time of all rows if splitting batches were free: for every batch, the time of each stage alone for
    all of its rows, times the fraction of its rows that reached the stage.

    If all batches were alike, this would be rows · t_0 + Σ survivors · t_k. Summing over batches accounts for long
    rows, which cost more, exiting later.

    Args:
        stage_seconds (`Sequence[Sequence[float]]`): seconds per batch and stage.
        batches (`Sequence[Sequence[Row]]`): the rows.
        exit_index (`dict[int, int]`): exit that answered each row, by place.
    """
    total = 0.0
    for seconds, batch in zip(stage_seconds, batches, strict=True):
        for k, time in enumerate(seconds):
            total += time * sum(exit_index[row.place] >= k for row in batch) / len(batch)
    return total


def stage_medians(clock: StageClock) -> list[list[float]]:
    """Return the seconds of each stage on each batch, as medians over the rounds."""
    return [[median(times) for times in zip(*rounds, strict=True)] for rounds in zip(*clock.rounds, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` % of the values do not exceed.

    Args:
        values (`Sequence[float]`): at least one value.
        percent (`float`): in (0, 100].
    """
    ordered = sorted(values)
    # Integer arithmetic: a float may round up past a row.
    return ordered[max(0, -int(-percent * len(ordered) // 100) - 1)]


def _same_stages(method: Method, other: Method) -> bool:
    return method.stages is not None and method.stages == other.stages and method.bucketed == other.bucketed


def _of_method(
    clock: MethodClock,
    stages: StageClock | None,
    labels: Sequence[int],
    expected: tuple[torch.Tensor, torch.Tensor] | None,
) -> MethodResult:
    method, answers = clock.method, clock.answers
    num_rows = len(answers)
    # The median ignores slow moments of the machine, which hit one batch in one round.
    seconds = sum(median(times) for times in zip(*clock.rounds, strict=True))
    passes = [sum(times) for times in clock.rounds]
    # Rows without an answer have raised an error before.
    exits = {place: cast(int, answer.exit_index) for place, answer in answers.items()}
    ideal = None if stages is None else ideal_seconds(stage_medians(stages), clock.batches, exits)
    found = MethodResult(
        name=method.name,
        kind=method.kind,
        group=method.group,
        precision=method.precision,
        engine=method.engine,
        bucketed=method.bucketed,
        seconds=seconds,
        rows_per_second=num_rows / seconds,
        milliseconds=1e3 * seconds / num_rows,
        spread=(max(passes) - min(passes)) / median(passes),
        latency_ms=[1e3 * percentile(clock.latencies, percent) for percent in PERCENTILES],
        accuracy=sum(answer.label_id == labels[place] for place, answer in answers.items()) / num_rows,
        shares=[sum(e == k for e in exits.values()) / num_rows for k in range(max(exits.values()) + 1)],
        ideal_milliseconds=None if ideal is None else 1e3 * ideal / num_rows,
        efficiency=None if ideal is None else ideal / seconds,
        notes=[note for note in (method.note, getattr(clock.answerer, "note", "")) if note],
    )
    if expected is None:
        return found
    right_labels, right_exits = (values.tolist() for values in expected)
    return replace(
        found,
        other_labels=sum(answer.label_id != right_labels[place] for place, answer in answers.items()),
        other_exits=sum(right_exits[place] not in (-1, exit_index) for place, exit_index in exits.items()),
    )


def _of_stages(clock: StageClock, methods: Sequence[Method], by_name: dict[str, MethodResult]) -> StageResult:
    method = clock.method
    num_rows = sum(map(len, clock.batches))
    totals = [sum(times) for times in zip(*stage_medians(clock), strict=True)]
    twin = twin_of(method, methods)
    return StageResult(
        method.precision,
        method.engine,
        method.bucketed,
        [1e3 * total / num_rows for total in totals],
        None if twin is None else sum(totals) / by_name[twin.name].seconds,
    )
