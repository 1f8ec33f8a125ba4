# SPDX-License-Identifier: Apache-2.0
"""Rows that design and rows that certify: disjoint, drawn by a seed, whatever they say.

Were rows chosen to certify by what they say, such as those that no other row repeats, they would stand for other rows
than those that will come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..models.errors import ArgumentError


T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Row numbers of the validation rows.

    Args:
        design (`torch.LongTensor`): rows that stop, place, set temperatures and find the path.
        certification (`torch.LongTensor`): rows that are used for the guarantee alone.
    """

    design: torch.Tensor
    certification: torch.Tensor

    def designing(self, values: Sequence[T]) -> list[T]:
        """Those of the design rows, of a value for each validation row."""
        return [values[i] for i in self.design.tolist()]

    def certifying(self, values: Sequence[T]) -> list[T]:
        """Those of the certification rows, of a value for each validation row."""
        return [values[i] for i in self.certification.tolist()]


def split_rows(num_rows: int, fraction: float, seed: int) -> Split:
    """Draw the certification rows; the rest designs.

    Args:
        num_rows (`int`): the validation rows.
        fraction (`float`): share of them that certifies.
        seed (`int`): of the draw.

    Raises:
        ValueError: `fraction` is not in (0, 1), or a part would be empty.
    """
    if not 0 < fraction < 1:
        raise ArgumentError("certification_fraction", "must be in (0, 1)", fraction)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    num_design = num_rows - round(fraction * num_rows)
    design, certification = order[:num_design], order[num_design:]
    if len(design) == 0 or len(certification) == 0:
        raise ArgumentError("validation", f"must have rows to design and to certify with, got {num_rows} in all")
    return Split(design.sort().values, certification)
