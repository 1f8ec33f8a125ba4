# SPDX-License-Identifier: Apache-2.0
"""Check this package's goals against a benchmark: met or missed."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_sidenet.benchmark import BenchmarkResult
from hf_sidenet.benchmark.measures import MethodResult, SizeResult
from hf_sidenet.benchmark.methods import EAGER, FLOAT32, OURS, PER_BATCH, PLAIN, RUNNER, WHOLE_BATCH, order_name
from hf_sidenet.benchmark.variants import INT8
from hf_sidenet.benchmark.verdict import accurate


# kind of method, batch size, minimum efficiency
EFFICIENCIES = ((RUNNER, 1, 0.95), (RUNNER, 8, 0.98), (RUNNER, 32, 0.98), (RUNNER, 128, 0.98), (PER_BATCH, 128, 0.95))
ROUTER_SIZE, ROUTER_RATIO = 32, 1.3
TWIN_RATIO, INT8_RATIO, EAGER_RATIO, FASTEST_RATIO = 1.6, 2.0, 6.0, 2.4
# All stages in sequence are the plain MainNet, with SideNets and more calls. With one row per batch, calls are costly.
SUM_RANGE = (0.95, 1.15)
PER_CALL = 0.1


@dataclass(frozen=True)
class Aim:
    """One goal.

    Args:
        text (`str`): the goal.
        met (`bool`): whether it is met wherever it was measured.
        found (`str`): the measured values.
    """

    text: str
    met: bool
    found: str


def aims_of(result: BenchmarkResult) -> list[Aim]:
    """Return all goals for which something was measured.

    Args:
        result ([`BenchmarkResult`]): of [`run_benchmark`]; our fastest method is chosen within its accuracy drop.
    """
    sizes, max_accuracy_drop = result.sizes, result.settings["max_accuracy_drop"]
    aims = [_efficiency(sizes, *each) for each in EFFICIENCIES]
    aims += [_router(sizes), *_fastest(sizes, max_accuracy_drop), _sums(sizes), _same_answers(sizes)]
    return [aim for aim in aims if aim is not None]


def aims_text(result: BenchmarkResult) -> str:
    """Return one line per goal, or an empty text if nothing was measured for any.

    Args:
        result ([`BenchmarkResult`]): of [`run_benchmark`].
    """
    aims = aims_of(result)
    lines = [f"- {'met' if aim.met else 'MISSED'}: {aim.text}: {aim.found}" for aim in aims]
    return "\n".join(["Aims:", "", *lines]) if lines else ""


def _efficiency(sizes: Sequence[SizeResult], kind: str, batch_size: int, least: float) -> Aim | None:
    found = [result for result in _at(sizes, batch_size) if result.kind == kind and result.efficiency is not None]
    if not found:
        return None
    return Aim(
        f"{kind}: ≥ {least:.2f} of the ideal at batch size {batch_size}",
        all(result.efficiency >= least for result in found),
        ", ".join(f"{result.efficiency:.2f} ({_where(result)})" for result in found),
    )


def _router(sizes: Sequence[SizeResult]) -> Aim | None:
    """Compare our fastest method in each precision, engine and order with the router there."""
    here = _at(sizes, ROUTER_SIZE)
    found = []
    for router in here:
        if router.kind == WHOLE_BATCH:
            alike = [r for r in here if r.group == OURS and _variant(r) == _variant(router)]
            if alike:
                best = max(alike, key=lambda result: result.rows_per_second)
                found.append((best.rows_per_second / router.rows_per_second, best))
    if not found:
        return None
    return Aim(
        f"ours: ≥ {ROUTER_RATIO}× the {WHOLE_BATCH} at batch size {ROUTER_SIZE}",
        all(ratio >= ROUTER_RATIO for ratio, _ in found),
        ", ".join(f"{ratio:.2f} ({best.kind}, {_where(best)})" for ratio, best in found),
    )


def _fastest(sizes: Sequence[SizeResult], max_accuracy_drop: float) -> list[Aim]:
    """Return the best speedups of our methods that are accurate enough."""
    good = [(size, result) for size in sizes for result in accurate(size, max_accuracy_drop) if result.group == OURS]
    twins = [(result.ratio, size, result) for size, result in good if result.ratio is not None]
    int8 = [each for each in twins if each[2].precision == INT8]
    plain = [result for size in sizes for result in accurate(size, max_accuracy_drop) if result.group == PLAIN]
    fastest = max((result.rows_per_second for result in plain), default=None)
    beyond = [] if fastest is None else [(each[2].rows_per_second / fastest, *each[1:]) for each in twins]
    # The best batch size of plain float32 eager, in each order.
    eager_best: dict[bool, float] = {}
    for result in plain:
        if (result.precision, result.engine) == (FLOAT32, EAGER):
            eager_best[result.bucketed] = max(result.rows_per_second, eager_best.get(result.bucketed, 0.0))
    eager = [
        (result.rows_per_second / eager_best[result.bucketed], size, result)
        for size, result in good
        if result.bucketed in eager_best
    ]
    aims = []
    there = ", at the same batch size and order"
    for what, least, found in (
        (f"its twin{there}", TWIN_RATIO, twins),
        (f"its twin in int8{there}", INT8_RATIO, int8),
        ("plain float32 eager at its best batch size, in the same order", EAGER_RATIO, eager),
        ("the fastest plain MainNet in any precision, engine and batch size", FASTEST_RATIO, beyond),
    ):
        if found:
            ratio, size, best = max(found, key=lambda each: each[0])
            text = f"the best of ours: ≥ {least}× {what}"
            aims.append(Aim(text, ratio >= least, f"{ratio:.2f} ({best.name}, batch size {size.batch_size})"))
    return aims


def _sums(sizes: Sequence[SizeResult]) -> Aim | None:
    found = [(each.sum_ratio, size, each) for size in sizes for each in size.stages if each.sum_ratio is not None]
    if not found:
        return None
    low, high = SUM_RANGE
    wrong = [
        f"{ratio:.2f} ({each.precision}, {each.engine}, {order_name(each.bucketed)}, batch size {size.batch_size})"
        for ratio, size, each in found
        if not low
        <= ratio
        <= (high if size.batch_size > 1 else max(high, 1 + PER_CALL * (len(each.milliseconds) - 1)))
    ]
    ratios = [ratio for ratio, _, _ in found]
    return Aim(
        f"this run can be trusted: (t0 + t1 + …) / plain is within {low} to {high}, at batch size 1 up to {PER_CALL} "
        "more per SideNet",
        not wrong,
        ", ".join(wrong) or f"{min(ratios):.2f} to {max(ratios):.2f}",
    )


def _same_answers(sizes: Sequence[SizeResult]) -> Aim | None:
    """Check float32 only: in other precisions, rounding may push a row across θ."""
    found = [
        (result.other_labels + result.other_exits, f"{result.name}, batch size {size.batch_size}")
        for size in sizes
        for result in size.methods
        if result.group == OURS and result.precision == FLOAT32 and result.other_labels is not None
    ]
    if not found:
        return None
    wrong = [f"{count} ({name})" for count, name in found if count]
    return Aim(
        "ours in float32: the answers of the model's own forward", not wrong, ", ".join(wrong) or "all the same"
    )


def _at(sizes: Sequence[SizeResult], batch_size: int) -> list[MethodResult]:
    return next((size.methods for size in sizes if size.batch_size == batch_size), [])


def _variant(result: MethodResult) -> tuple:
    return result.precision, result.engine, result.bucketed


def _where(result: MethodResult) -> str:
    return f"{result.precision}, {result.engine}, {order_name(result.bucketed)}"
