# SPDX-License-Identifier: Apache-2.0
"""Times of compressed versions, with and without SideNets, side by side on a machine that drifts."""

from collections.abc import Sequence

import torch
from compressed import Version

from hf_sidenet.benchmark.interleave import MethodClock, interleave
from hf_sidenet.benchmark.methods import OURS, PLAIN, PLAIN_MAINNET, RUNNER, Method
from hf_sidenet.benchmark.rows import cut
from hf_sidenet.benchmark.ways import as_runner, by_first_stage
from hf_sidenet.data.rows import Rows
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.routings import WholeEngine
from hf_sidenet.inference.rows import Row


# A runner measures its strategies on every fourth batch, off the clock.
SHOWN = 4


def timed(
    versions: Sequence[Version], thresholds: Sequence[float], rows: Sequence[Row], batch_size: int, rounds: int
) -> list[list[MethodClock]]:
    """Time all versions interleaved, batch by batch; rows are sorted by length, as a runner sorts them.

    Args:
        versions (`Sequence[Version]`): all of them.
        thresholds (`Sequence[float]`): θ of each.
        rows (`Sequence[Row]`): with `place` 0, 1, 2, ...
        batch_size (`int`): rows per batch.
        rounds (`int`): timed rounds, after a warm-up round.

    Returns:
        `list[list[MethodClock]]`: two clocks per version, without SideNets and routed.
    """
    batches = cut(rows, batch_size, max_batches=len(rows)).bucketed
    pairs = []
    for version, threshold in zip(versions, thresholds, strict=True):
        pairs.append(
            [
                MethodClock(method, batches, _made(method, batch_size, batches), version.chain.device)
                for method in (_plain(version), _routed(version, threshold))
            ]
        )
    interleave([clock for pair in pairs for clock in pair], len(batches), repeats=rounds, desc="Timing")
    return pairs


def first_rows(version: Version, rows: Rows, count: int) -> list[Row]:
    """Return the first rows of a dataset, as engines take them.

    Raises:
        RowError: a row cannot be answered.
    """
    raw = [rows.dataset[i] for i in range(min(count, len(rows)))]
    read = RowReader(version.chain).read(range(len(raw)), raw, [()] * len(raw))
    for row in read:
        if not isinstance(row, Row):
            raise row
    return read


def _plain(version: Version) -> Method:
    return Method(
        PLAIN_MAINNET,
        PLAIN,
        version.name,
        version.engine,
        bucketed=True,
        make=lambda *_: WholeEngine(version.plain, by_first_stage(version.plain)),
    )


def _routed(version: Version, threshold: float) -> Method:
    """Return the fastest routing on this machine, as a runner would choose it."""
    return Method(
        RUNNER,
        OURS,
        version.name,
        version.engine,
        bucketed=True,
        make=lambda batch_size, batches: as_runner(version.chain, version.model, 0, batch_size, batches),
        thresholds=(threshold,) * (len(version.chain) - 1),
    )


def _made(method: Method, batch_size: int, batches: Sequence[list[Row]]):
    with torch.inference_mode():
        return method.make(batch_size, [method.rows(batch) for batch in batches[::SHOWN]])
