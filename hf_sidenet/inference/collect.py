# SPDX-License-Identifier: Apache-2.0
"""Records, times and costs of a chain of stages or a model on real rows, for calibration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import PreTrainedModel

from ..data.rows import Rows
from ..measurement.costs import ExitCosts, measure_costs, medians, per_row, time_calls
from ..measurement.inputs import model_inputs
from ..measurement.records import ExitRecords, collect
from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import chain_exits, stack_exits
from ..models.modeling_base import SideNetOutput, SideNetPreTrainedModel
from .precision import precision_of
from .protocols import StageChain


# Batches to count, batches to time, repeats.
COSTS, QUICK_COSTS = (8, 4, 5), (3, 2, 3)


class _EveryExit(nn.Module):
    """Chain of stages that is called like a model with exits off."""

    def __init__(self, stages: StageChain):
        super().__init__()
        self.stages = stages
        self.config = stages.config
        self.device = stages.device
        self.dtype = stages.dtype
        self.task = stages.task

    def forward(self, thresholds: float = 1.0, **inputs: torch.Tensor) -> SideNetOutput:
        own = _run(self.stages, inputs, len(self.stages))
        exit_logits = stack_exits(chain_exits(own, chain_of(self.config)))
        return SideNetOutput(logits=exit_logits[:, -1], exit_logits=exit_logits)


def collect_stages(
    stages: StageChain,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    reference: PreTrainedModel | None = None,
    progress: bool = False,
) -> ExitRecords:
    """Run every stage on every row and record the logits of every exit; see [`collect`].

    Args:
        stages ([`StageChain`]): the chain, in the precision and runtime that will serve.
        dataloader (`Iterable[Mapping[str, Any]]`): batches of the MainNet's inputs with `labels` of shape `(batch,)`.
        reference (`PreTrainedModel`, *optional*): classifier for `mainnet_logits`, in its own precision; by default
            the last stage.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.

    Raises:
        ValueError: a batch has no `labels` or an input that the stages do not take, or there are no rows.
    """
    # `collect` uses only the part of the interface that `_EveryExit` has.
    model = cast(SideNetPreTrainedModel, _EveryExit(stages))
    return collect(model, dataloader, reference=reference, progress=progress)


@torch.no_grad()
def stage_milliseconds(
    stages: StageChain, batches: Sequence[Mapping[str, Any]], *, repeats: int = 5, progress: bool = False
) -> list[list[float]]:
    """Measure the milliseconds per row of an answer at each exit, when all rows of a batch exit there.

    Args:
        stages ([`StageChain`]): the chain.
        batches (`Sequence[Mapping[str, Any]]`): realistic inputs; targets are ignored.
        repeats (`int`, *optional*, defaults to 5): rounds, in which exits alternate.
        progress (`bool`, *optional*, defaults to `False`): show a progress bar.

    Returns:
        `list[list[float]]`: for each round, one time per exit; the MainNet's is last and includes the SideNets.
    """
    sample = [model_inputs(batch, stages.device, stages.dtype) for batch in batches]
    num_rows = sum(next(iter(inputs.values())).shape[0] for inputs in sample)
    calls = [partial(_call, stages, count) for count in range(1, len(stages) + 1)]
    return per_row(time_calls(calls, sample, repeats, progress), num_rows)


def _call(stages: StageChain, count: int, **inputs: torch.Tensor) -> None:
    _run(stages, inputs, count)


def _run(stages: StageChain, inputs: dict[str, torch.Tensor], count: int) -> list[torch.Tensor]:
    """Return the logits of the first `count` exits, each of shape `(rows, num_labels)`."""
    unknown = sorted(set(inputs) - set(stages.input_names))
    if unknown:
        raise ValueError(
            f"batches must have only inputs of the stages, {list(stages.input_names)}, and `labels`, got {unknown}."
        )
    hidden, found = None, []
    for index in range(count):
        hidden, logits = stages(index, hidden, inputs)
        found.append(logits)
        # As in the runner.
        inputs = stages.modality.later_inputs(inputs, hidden)
    return found


def row_costs(
    model: SideNetPreTrainedModel,
    rows: Rows,
    batch_size: int,
    *,
    which: torch.Tensor | None = None,
    quick: bool = False,
    progress: bool = True,
) -> ExitCosts:
    """Measure the costs of every exit on the first batches of some rows.

    Args:
        model ([`SideNetPreTrainedModel`]): the model.
        rows ([`Rows`]): the rows.
        batch_size (`int`): rows per call.
        which (`torch.LongTensor`, *optional*): indices of the rows to use, by default all.
        quick (`bool`): use fewer batches and repeats; FLOPs hardly vary between batches, milliseconds do.
        progress (`bool`): show progress bars.
    """
    count, timed, repeats = QUICK_COSTS if quick else COSTS
    batches = first_batches(rows, batch_size, count, which)
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
    """Measure the costs of a chain of stages: its own milliseconds, the parameters and FLOPs of its source model.

    The whole chain also stands in for the plain MainNet, and is slower than it by the SideNets.

    Args:
        stages ([`StageChain`]): the chain.
        model ([`SideNetPreTrainedModel`]): a model with the same layers.
        rows ([`Rows`]): the rows, whose first batches are used.
        batch_size (`int`): rows per call.
        which (`torch.LongTensor`, *optional*): indices of the rows to use, by default all.
        progress (`bool`): show progress bars.
    """
    count, timed, repeats = COSTS
    batches = first_batches(rows, batch_size, count, which)
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


def first_batches(rows: Rows, batch_size: int, count: int, which: torch.Tensor | None = None) -> list[dict[str, Any]]:
    """Return the first batches of the rows, or of those with the indices `which`."""
    # torch accepts any map-style data set.
    dataset = cast(Dataset, rows.dataset)
    dataset = dataset if which is None else Subset(dataset, which.tolist())
    loader = DataLoader(dataset, batch_size, collate_fn=rows.collate_fn)
    return [dict(batch) for batch in islice(loader, count)]
