# SPDX-License-Identifier: Apache-2.0
"""Rows waiting for a full batch at a stage."""

import math
from itertools import pairwise

from .rows import Batch, merge, trim


# Overhead of a stage call, in tokens (MiniLM on a CPU: 30 in float32, 45 in bfloat16).
CALL_TOKENS = 40
# Number of places where a pool may be split.
MAX_CUTS = 64


class Pool:
    """Rows of different batches waiting for the same stage.

    Args:
        size (`int`): rows of a full batch.
        wait_for (`int`): number of waiting rows from which batches are made, at least `size`: more texts give batches
            of more similar lengths.
        pad (`dict[str, float]`): see [`collate`].
    """

    def __init__(self, size: int, wait_for: int, pad: dict[str, float]):
        self.size = size
        self.wait_for = wait_for
        self.pad = pad
        self._waiting: dict[tuple, list[tuple[float, Batch]]] = {}

    def __len__(self) -> int:
        return sum(self._count(key) for key in self._waiting)

    def add(self, batch: Batch, now: float) -> None:
        """Add rows to the pool.

        Args:
            batch ([`Batch`]): rows remaining after the previous stage.
            now (`float`): current time in seconds, on any clock.
        """
        self._waiting.setdefault(batch.rows[0].kind, []).append((now, batch))

    def take_full(self) -> list[Batch]:
        """Take all rows of every kind with enough rows, as batches of similar length."""
        return self._take([key for key in self._waiting if self._count(key) >= self.wait_for])

    def take_due(self, before: float) -> list[Batch]:
        """Take all rows of every kind with a row waiting since `before` or earlier."""
        return self._take([key for key, waiting in self._waiting.items() if waiting[0][0] <= before])

    @property
    def since(self) -> float:
        """Time at which the longest-waiting row was added; infinity if none waits."""
        return min((waiting[0][0] for waiting in self._waiting.values()), default=math.inf)

    def _count(self, key: tuple) -> int:
        return sum(len(batch.rows) for _, batch in self._waiting[key])

    def _take(self, keys: list[tuple]) -> list[Batch]:
        taken = []
        for key in keys:
            batches = [batch for _, batch in self._waiting.pop(key)]
            # Rows added together stay together, because they are padded together.
            taken += batches if self.wait_for == 1 else _parts(merge(batches, self.pad), self.size)
        return taken


def _parts(batch: Batch, size: int) -> list[Batch]:
    """Split rows into batches of at most `2 * size`; texts such that the total work with padding is least."""
    if batch.has_tokens:
        lengths = [row.length for row in batch.rows]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        ends = cut_by_length([lengths[i] for i in order], 2 * size, CALL_TOKENS)
    else:
        order = list(range(len(batch.rows)))
        ends = [len(order) * i // (len(order) // size) for i in range(1, len(order) // size + 1)] or [len(order)]
    if len(ends) == 1:
        return [batch]
    return [trim(batch.select(order[start:end])) for start, end in pairwise([0, *ends])]


def cut_by_length(lengths: list[int], most: int, call_tokens: int) -> list[int]:
    """Split texts of increasing length into batches that minimize the cost of calls and padded tokens.

    Args:
        lengths (`list[int]`): lengths in tokens, sorted.
        most (`int`): maximum rows per batch.
        call_tokens (`int`): overhead of a call, in tokens.

    Returns:
        `list[int]`: end index of each batch.
    """
    step = -(-len(lengths) // MAX_CUTS)
    edges = [*range(0, len(lengths), step), len(lengths)]
    least, before = [0], [0]
    for j in range(1, len(edges)):
        longest = lengths[edges[j] - 1]
        costs = {
            i: least[i] + call_tokens + (edges[j] - edges[i]) * longest
            for i in range(j)
            if edges[j] - edges[i] <= most or i == j - 1
        }
        before.append(min(costs, key=costs.__getitem__))
        least.append(costs[before[-1]])
    ends, j = [], len(edges) - 1
    while j:
        ends.append(edges[j])
        j = before[j]
    return ends[::-1]
