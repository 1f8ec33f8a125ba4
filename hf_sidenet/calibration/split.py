# SPDX-License-Identifier: Apache-2.0
"""Rows that design and rows that certify: disjoint, drawn by a seed, without what has been seen before."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch


# With more than this share of known rows, the files are taken for the same data by mistake.
MOST_KNOWN = 0.1


@dataclass(frozen=True)
class Split:
    """Row numbers of the validation rows.

    Args:
        design (`torch.LongTensor`): rows that stop, place, set temperatures and find the path.
        certification (`torch.LongTensor`): rows that are used for the guarantee alone.
        num_known (`int`): rows that would have certified, but are known from training or design: left out.
    """

    design: torch.Tensor
    certification: torch.Tensor
    num_known: int


def split_rows(keys: Sequence[str], fraction: float, seed: int, known: Collection[str] = frozenset()) -> Split:
    """Draw the certification rows; the rest designs.

    Args:
        keys (`Sequence[str]`): what each row is; equal rows have equal keys. See [`row_keys`].
        fraction (`float`): share of the rows that certifies.
        seed (`int`): of the draw.
        known (`Collection[str]`, *optional*): keys of the training rows.

    Raises:
        ValueError: `fraction` is not in (0, 1), a part would be empty, or many rows are known.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`certification_fraction` must be in (0, 1), got {fraction!r}.")
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))
    num_design = len(keys) - round(fraction * len(keys))
    design, certification = order[:num_design], order[num_design:]
    if len(design) == 0 or len(certification) == 0:
        raise ValueError(f"`validation` must have rows to design and to certify with, got {len(keys)} in all.")
    seen = {*known, *(keys[i] for i in design.tolist())}
    fresh = torch.tensor([keys[i] not in seen for i in certification.tolist()], dtype=torch.bool)
    num_known = int((~fresh).sum())
    if num_known > MOST_KNOWN * len(certification):
        raise ValueError(
            f"`validation` must be rows that have not been trained on, but {num_known} of {len(certification)} "
            "certification rows are also training or design rows, word for word."
        )
    return Split(design.sort().values, certification[fresh], num_known)
