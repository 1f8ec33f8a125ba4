# SPDX-License-Identifier: Apache-2.0
"""Batch shapes of a data set: their frequencies, their FLOPs, and representative batches.

FLOPs depend only on the shapes of a batch, so each shape is counted once, however often it occurs. The number of rows
is part of the shape: not all work is per row (DeBERTa projects its relative positions once per batch).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from transformers.utils import logging

from ..models.blocks import counting_flops
from ..models.tasks import LABEL_INPUTS
from .inputs import model_inputs


# Examples kept per timed batch: enough to find one near every part's mean.
KEPT_PER_TIMED = 4


@dataclass
class ShapeCount:
    """All batches of one shape.

    Args:
        rows (`int`): rows of one such batch.
        flops (`list[int]`): FLOPs of each call on one such batch; the last is the plain MainNet.
        times (`int`): number of batches of this shape.
        example (`dict[str, Any]`, *optional*): original inputs of one of them; `None` if not kept.
    """

    rows: int
    flops: list[int]
    times: int
    example: dict[str, Any] | None


def count_shapes(
    calls: list[Callable],
    batches: Iterable[Mapping[str, Any]],
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_timed: int,
    progress: bool,
) -> list[ShapeCount]:
    """Read a data set once, and count the FLOPs of every call on every shape.

    Args:
        calls (`list[Callable]`): functions of the inputs of a batch; the last is the plain MainNet.
        batches (`Iterable[Mapping[str, Any]]`): the data set; batches without rows are left out.
        device (`torch.device`): device of the inputs.
        dtype (`torch.dtype`): dtype of floating-point inputs.
        num_timed (`int`): number of batches to be timed; at most `4 * num_timed` examples are held at a time.
        progress (`bool`): show a progress bar.

    Returns:
        `list[ShapeCount]`: shapes, cheapest first.
    """
    found: dict[tuple, ShapeCount] = {}
    for batch in logging.tqdm(batches, desc="Counting FLOPs", disable=not progress):
        batch = {name: value for name, value in batch.items() if name not in LABEL_INPUTS}
        rows = next((value.shape[0] for value in batch.values() if isinstance(value, torch.Tensor)), 0)
        if rows == 0:
            continue
        shape = _shape_of(batch)
        if shape in found:
            found[shape].times += 1
            continue
        inputs = model_inputs(batch, device, dtype)
        found[shape] = ShapeCount(rows, [_count_flops(call, inputs) for call in calls], times=1, example=batch)
        _let_go(found, KEPT_PER_TIMED * num_timed)
    return sorted(found.values(), key=_work)


def typical_batches(shapes: list[ShapeCount], count: int) -> list[dict[str, Any]]:
    """Choose batches whose work has about the mean and spread of the data set's.

    The data set, sorted by work per batch, is split into `count` equal parts; for each, the example closest to the
    part's mean FLOPs is chosen, possibly several times.

    Args:
        shapes (`list[ShapeCount]`): shapes from [`count_shapes`].
        count (`int`): maximum number of batches.
    """
    works = [_work(shape) for shape in shapes for _ in range(shape.times)]
    held = [(_work(shape), shape.example) for shape in shapes if shape.example is not None]
    count = min(count, len(works))
    cuts = [i * len(works) // count for i in range(count + 1)]
    means = [fmean(works[start:end]) for start, end in pairwise(cuts)]
    return [min(held, key=lambda each: abs(each[0] - mean))[1] for mean in means]


def _shape_of(batch: dict[str, Any]) -> tuple:
    return tuple(
        (name, tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value))
        for name, value in sorted(batch.items())
    )


def _count_flops(call: Callable, inputs: dict[str, Any]) -> int:
    with counting_flops() as counter:
        call(**inputs)
    return counter.get_total_flops()


def _let_go(found: dict[tuple, ShapeCount], limit: int) -> None:
    """Beyond the limit, drop every other example in order of work, so that the rest still spans the data set."""
    held = sorted((shape for shape in found.values() if shape.example is not None), key=_work)
    if len(held) > limit:
        for shape in held[1::2]:
            shape.example = None


def _work(shape: ShapeCount) -> int:
    return shape.flops[-1]
