# SPDX-License-Identifier: Apache-2.0
"""θ chosen on validation rows: for a drop in accuracy, or for a cost. Temperatures come from the same rows."""

from collections.abc import Iterator
from itertools import combinations

from found import Run

from hf_sidenet.evaluation import CurvePoint, sweep


# One θ for all SideNets of a set, in steps of a hundredth, finer near 1.
GRID = (*(round(0.01 * i, 2) for i in range(30, 99)), 0.985, 0.99, 0.995, 0.999, 0.9999, 1.0)


def sets_of_exits(num_sidenets: int) -> Iterator[tuple[int, ...]]:
    """Yield every set of at least one SideNet, by number."""
    for size in range(1, num_sidenets + 1):
        yield from combinations(range(num_sidenets), size)


def thresholds_of(run: Run, exits: tuple[int, ...], theta: float) -> list[float]:
    """Return θ of each SideNet if only some are in use; no row exits at the others."""
    return [theta if i in exits else 1.0 for i in range(len(run.exit_layers))]


def curve(run: Run, exits: tuple[int, ...], split: str, grid: tuple[float, ...] = GRID) -> list[CurvePoint]:
    """Return accuracy and costs of a set of SideNets along θ.

    Args:
        run ([`Run`]): with SideNets.
        exits (`tuple[int, ...]`): which of them are in use.
        split (`str`): `"validation"` or `"test"`.
        grid (`tuple[float, ...]`, *optional*): values of θ.
    """
    known = run.curves.get((exits, split, grid))
    if known is None:
        settings = [thresholds_of(run, exits, theta) for theta in grid]
        known = run.curves[exits, split, grid] = sweep(getattr(run, split), run.costs, settings, run.temperatures)
    return known


def for_drop(run: Run, exits: tuple[int, ...], max_drop: float) -> float:
    """Return the θ with the fewest FLOPs whose validation accuracy is at most `max_drop` below the MainNet's."""
    points = curve(run, exits, "validation")
    floor = points[-1].accuracy - max_drop - 1e-9
    return min((point.flops, theta) for theta, point in zip(GRID, points, strict=True) if point.accuracy >= floor)[1]


def for_cost(run: Run, exits: tuple[int, ...], max_flops: float) -> float | None:
    """Return the θ with the best accuracy on validation rows among those that cost at most `max_flops` there, the
    cheapest in a tie; `None` if there is none."""
    found = [
        (-point.accuracy, point.flops, theta)
        for theta, point in zip(GRID, curve(run, exits, "validation"), strict=True)
        if point.flops <= max_flops
    ]
    return min(found)[2] if found else None


def test_point(run: Run, exits: tuple[int, ...], theta: float) -> CurvePoint:
    """Return the accuracy and costs of a θ on the test rows."""
    return curve(run, exits, "test", (theta,))[0]
