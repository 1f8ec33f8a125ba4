# SPDX-License-Identifier: Apache-2.0
"""Split validation rows into design and certification rows, at random and regardless of their contents.

Certification rows selected by content, such as rows without duplicates, would not represent future rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..models.errors import ArgumentError


T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Indices of the validation rows of each part.

    Args:
        design (`torch.LongTensor`): rows for early stopping, placement, temperatures and the path.
        certification (`torch.LongTensor`): rows used for the guarantee alone.
    """

    design: torch.Tensor
    certification: torch.Tensor

    def designing(self, values: Sequence[T]) -> list[T]:
        """Select the values of the design rows from one value per validation row."""
        return [values[i] for i in self.design.tolist()]

    def certifying(self, values: Sequence[T]) -> list[T]:
        """Select the values of the certification rows from one value per validation row."""
        return [values[i] for i in self.certification.tolist()]


def split_rows(num_rows: int, fraction: float, seed: int) -> Split:
    """Draw the certification rows; the rest are design rows.

    Args:
        num_rows (`int`): number of validation rows.
        fraction (`float`): share of certification rows.
        seed (`int`): seed of the draw.

    Raises:
        ValueError: `fraction` is not in (0, 1), or a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ArgumentError("certification_fraction", "must be in (0, 1)", fraction)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    num_design = num_rows - round(fraction * num_rows)
    design, certification = order[:num_design], order[num_design:]
    if len(design) == 0 or len(certification) == 0:
        raise ArgumentError("validation", f"must have rows for both design and certification, got {num_rows} in total")
    return Split(design.sort().values, certification)
