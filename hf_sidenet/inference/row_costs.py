# SPDX-License-Identifier: Apache-2.0
"""What rows cost, as they come."""

from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from ..data.rows import Rows
from ..measurement.costs import ExitCosts, measure_costs, medians
from ..models.modeling_base import SideNetPreTrainedModel
from .collect import stage_milliseconds
from .precision import precision_of
from .protocols import StageChain


# Batches to count, batches to time, repeats.
COSTS, QUICK_COSTS = (8, 4, 5), (3, 2, 3)


def row_costs(
    model: SideNetPreTrainedModel,
    rows: Rows,
    batch_size: int,
    *,
    which: torch.Tensor | None = None,
    quick: bool = False,
    progress: bool = True,
) -> ExitCosts:
    """Costs of every exit on a few batches of rows as they come.

    Args:
        model ([`SideNetPreTrainedModel`]): with its SideNets.
        rows ([`Rows`]): whose first batches are taken.
        batch_size (`int`): rows per call.
        which (`torch.LongTensor`, *optional*): numbers of the rows to take, by default all.
        quick (`bool`): fewer batches and repeats; FLOPs hardly change with the batch, milliseconds do.
        progress (`bool`): show progress bars.
    """
    count, timed, repeats = QUICK_COSTS if quick else COSTS
    batches = typical_batches(rows, batch_size, count, which)
    return measure_costs(model, batches, repeats=repeats, timed_batches=timed, progress=progress)


def stage_costs(
    stages: StageChain,
    model: SideNetPreTrainedModel,
    rows: Rows,
    batch_size: int,
    *,
    which: torch.Tensor | None = None,
    progress: bool = True,
) -> ExitCosts:
    """Costs of a chain of stages: its own milliseconds, the parameters and FLOPs of the model that it was made from.

    The whole chain stands for the plain MainNet, of which no stages are made: it is slower by the SideNets.

    Args:
        stages ([`StageChain`]): the chain.
        model ([`SideNetPreTrainedModel`]): with the same layers.
        rows ([`Rows`]): whose first batches are taken.
        batch_size (`int`): rows per call.
        which (`torch.LongTensor`, *optional*): numbers of the rows to take, by default all.
        progress (`bool`): show progress bars.
    """
    count, timed, repeats = COSTS
    batches = typical_batches(rows, batch_size, count, which)
    costs = measure_costs(model, batches, repeats=1, timed_batches=1, progress=progress)
    rounds = stage_milliseconds(stages, batches[:timed], repeats=repeats, progress=progress)
    milliseconds = medians(rounds)
    return replace(
        costs,
        milliseconds=milliseconds,
        mainnet_milliseconds=milliseconds[-1],
        rounds=[[*times, times[-1]] for times in rounds],
        device=f"{stages.device}, {precision_of(stages)}",
    )


def typical_batches(
    rows: Rows, batch_size: int, count: int, which: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """The first batches of rows as they come, out of all or of those with the numbers `which`."""
    dataset = rows.dataset if which is None else Subset(rows.dataset, which.tolist())
    loader = DataLoader(dataset, batch_size, collate_fn=rows.collate_fn)
    return [dict(batch) for batch in islice(loader, count)]
