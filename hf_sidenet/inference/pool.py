# SPDX-License-Identifier: Apache-2.0
"""Rows that wait for a stage until there are enough of them."""

import math

import torch

from .rows import Batch, merge, trim


class Pool:
    """Rows of different batches that wait for the same stage.

    Args:
        size (`int`): how many rows a full batch has.
        pad (`dict[str, float]`): see [`collate`].
    """

    def __init__(self, size: int, pad: dict[str, float]):
        self.size = size
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
        return self._take([key for key in self._waiting if self._count(key) >= self.size])

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
            # Rows that came together are not trimmed: they were padded together and are of one length, or nearly.
            whole = merge(batches, self.pad)
            taken += [whole] if len(whole.rows) < 2 * self.size else _cut(whole, self.size)
        return taken


def _cut(batch: Batch, size: int) -> list[Batch]:
    """Batches of at least `size` rows, each with rows of similar length."""
    lengths = [row.length for row in batch.rows]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    parts = torch.tensor(order).tensor_split(len(order) // size)
    return [trim(batch.select(part.tolist())) for part in parts]
