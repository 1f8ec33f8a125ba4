# SPDX-License-Identifier: Apache-2.0
"""Rows that wait for a stage until there are enough of them."""

import math
from itertools import pairwise

from .rows import Batch, merge, trim


# A call of a stage costs by itself about as much as so many tokens (MiniLM on a CPU: 30 in float32, 45 in bfloat16).
CALL_TOKENS = 40
# Places where a pool may be cut.
MAX_CUTS = 64


class Pool:
    """Rows of different batches that wait for the same stage.

    Args:
        size (`int`): how many rows a full batch has.
        wait_for (`int`): how many rows have to wait until batches are made of them, at least `size`: of more texts,
            more are of similar length.
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
        """Rows begin to wait.

        Args:
            batch ([`Batch`]): those that stay after the stage before.
            now (`float`): seconds, of any clock.
        """
        self._waiting.setdefault(batch.rows[0].kind, []).append((now, batch))

    def take_full(self) -> list[Batch]:
        """All rows of the kinds of which there are enough, as batches of similar length."""
        return self._take([key for key in self._waiting if self._count(key) >= self.wait_for])

    def take_due(self, before: float) -> list[Batch]:
        """All rows of the kinds of which one has waited since `before` or longer."""
        return self._take([key for key, waiting in self._waiting.items() if waiting[0][0] <= before])

    @property
    def since(self) -> float:
        """When the row came that has waited longest; infinite where none waits."""
        return min((waiting[0][0] for waiting in self._waiting.values()), default=math.inf)

    def _count(self, key: tuple) -> int:
        return sum(len(batch.rows) for _, batch in self._waiting[key])

    def _take(self, keys: list[tuple]) -> list[Batch]:
        taken = []
        for key in keys:
            batches = [batch for _, batch in self._waiting.pop(key)]
            # Rows that came together stay together: they were padded together.
            taken += batches if self.wait_for == 1 else _parts(merge(batches, self.pad), self.size)
        return taken


def _parts(batch: Batch, size: int) -> list[Batch]:
    """The rows in batches of at most twice `size`; of texts those with the least work, padding included."""
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
    """Where to cut texts of rising lengths into batches, so that tokens with padding, and calls, cost the least.

    Args:
        lengths (`list[int]`): in tokens, sorted.
        most (`int`): rows of a batch.
        call_tokens (`int`): tokens that cost as much as a call costs by itself.

    Returns:
        `list[int]`: the end of each batch.
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
