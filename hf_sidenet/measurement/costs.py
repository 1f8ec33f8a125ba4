# SPDX-License-Identifier: Apache-2.0
"""Measure the cost of an answer at each exit, heads included, in parameters, FLOPs and milliseconds.

The paper counts parameters. That can mislead (ResNet-18 after its first stage: 1.4 % of the parameters, 32 % of the
FLOPs), so all three are measured and always shown together.

Limits: FLOPs are those of matrix products, convolutions and attention, as PyTorch counts them, padding included: a
mask saves none. An attention kernel from outside PyTorch (FlashAttention 2) counts nothing, and a MainNet whose work
depends on the values of its inputs, not just on their shapes, is counted on the first batch of each shape only.
Milliseconds are for this machine, batch size and precision with *all* rows of a batch answered at one exit: they do
not include the cost of splitting a batch. Parameters stored as integers (quantized models) are not counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers.utils import logging

from ..models.errors import ArgumentError
from ..models.exit_rule import answers
from ..models.mainnet import detached_parameters, evaluating, used_parameters
from ..models.modeling_base import SideNetPreTrainedModel
from .inputs import model_inputs
from .records import ExitRecords
from .shapes import count_shapes, typical_batches


CURRENCIES = ("params", "flops", "milliseconds")
NUM_PARAMETER_ROWS = 2


@dataclass(frozen=True)
class ExitCosts:
    """Cost of an answer at each exit, the MainNet's last, and of the plain MainNet without SideNets.

    Args:
        params (`list[int]`): per exit, number of parameters used for the answer.
        flops (`list[float]`): per exit, floating-point operations per row.
        milliseconds (`list[float]`): per exit, time per row.
        mainnet_params (`int`): number of parameters that the plain MainNet uses.
        mainnet_flops (`float`): its floating-point operations per row.
        mainnet_milliseconds (`float`): its time per row.
        num_threads (`int`): CPU threads of PyTorch during the measurement.
        device (`str`): device of the measurement.
        rounds (`list[list[float]]`, *optional*):
            Individual times behind the medians: for each round, the milliseconds of every exit, then of the plain
            MainNet. Their spread shows the noise of the machine.
    """

    params: list[int]
    flops: list[float]
    milliseconds: list[float]
    mainnet_params: int
    mainnet_flops: float
    mainnet_milliseconds: float
    num_threads: int
    device: str
    rounds: list[list[float]] = field(default_factory=list)

    def __post_init__(self):
        lengths = [len(getattr(self, currency)) for currency in CURRENCIES]
        if len(set(lengths)) != 1 or lengths[0] < 2:
            raise ValueError(f"{CURRENCIES} must have one value per exit, the same number ≥ 2 each, got {lengths}.")
        if any(len(times) != lengths[0] + 1 for times in self.rounds):
            raise ArgumentError(
                "rounds", f"must have a time for each exit and for the plain MainNet, got {self.rounds}"
            )

    @property
    def num_exits(self) -> int:
        """Number of exits: the SideNets and the MainNet."""
        return len(self.params)

    def fractions(self, currency: str) -> list[float]:
        """Return the cost of each exit as a fraction of the plain MainNet's; the last includes the SideNets, so > 1.

        Args:
            currency (`str`): `"params"`, `"flops"` or `"milliseconds"`.

        Raises:
            ValueError: `currency` is another one.
        """
        if currency not in CURRENCIES:
            raise ArgumentError("currency", f"must be one of {CURRENCIES}", currency)
        mainnet = getattr(self, f"mainnet_{currency}")
        return [cost / mainnet for cost in getattr(self, currency)]

    def spread(self, shares: Sequence[float]) -> tuple[float, float] | None:
        """Return the range over the rounds of the mean time per row, as a fraction of the MainNet's in each round.

        `None` if there are fewer than two rounds.

        Args:
            shares (`Sequence[float]`): fraction of the rows that each exit answers.
        """
        means = [
            sum(share * time for share, time in zip(shares, times[:-1], strict=True)) / times[-1]
            for times in self.rounds
        ]
        return (min(means), max(means)) if len(means) > 1 else None

    def average(self, exit_index: torch.Tensor, currency: str) -> float:
        """Return the mean cost per row, as a fraction of the plain MainNet's.

        Args:
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answered each row.
            currency (`str`): `"params"`, `"flops"` or `"milliseconds"`.

        Raises:
            ValueError: `currency` is another one, there are no rows, or an index is not an exit.
        """
        fractions = torch.tensor(self.fractions(currency), dtype=torch.float64)
        if exit_index.numel() == 0:
            raise ArgumentError("exit_index", "must have at least one row, got none")
        if exit_index.min() < 0 or exit_index.max() >= self.num_exits:
            raise ArgumentError(
                "exit_index",
                f"must be in [0, {self.num_exits}), got {exit_index.min().item()} to {exit_index.max().item()}",
            )
        return fractions[exit_index.cpu()].mean().item()


def answered_at(records: ExitRecords, costs: ExitCosts, exit_index: torch.Tensor) -> dict[str, Any]:
    """Compute accuracy, share of rows per exit and mean costs when rows are answered at given exits.

    Args:
        records ([`ExitRecords`]): records of the rows.
        costs ([`ExitCosts`]): costs of the model.
        exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answers each row.
    """
    return {
        "accuracy": records.accuracy(answers(records.exit_logits, exit_index)),
        "shares": (torch.bincount(exit_index, minlength=records.num_exits) / len(records)).tolist(),
        **{currency: costs.average(exit_index, currency) for currency in CURRENCIES},
    }


def measure_costs(
    model: SideNetPreTrainedModel,
    batches: Iterable[Mapping[str, Any]],
    *,
    repeats: int = 5,
    timed_batches: int = 8,
    progress: bool = False,
) -> ExitCosts:
    """Measure the cost of an answer at each exit, per row of a data set.

    The data set is read once. FLOPs are counted on one batch of each shape, at every exit, and weighted by the
    frequency of that shape, which is exact. Milliseconds are measured on a few representative batches: sorted by
    FLOPs, the batches are split into `timed_batches` equal parts, and the one closest to each part's mean is timed.

    Args:
        model ([`SideNetPreTrainedModel`]): a MainNet with SideNets; its mode is restored afterward.
        batches (`Iterable[Mapping[str, Any]]`):
            Realistic inputs, of the batch size and lengths to measure: a list, a `DataLoader`, a generator. Targets
            are ignored. At most `4 * timed_batches` batches, of different shapes, are held at a time.
        repeats (`int`, *optional*, defaults to 5):
            Timed passes over the batches per exit, whose median is used. Exits alternate, so that a slow moment of the
            machine affects all of them.
        timed_batches (`int`, *optional*, defaults to 8): maximum number of batches to time.
        progress (`bool`, *optional*, defaults to `False`): show progress bars over the batches and the repeats.

    Raises:
        ValueError: there are no batches or no rows, or `repeats` or `timed_batches` is < 1.
    """
    for name, value in (("repeats", repeats), ("timed_batches", timed_batches)):
        if value < 1:
            raise ArgumentError(name, "must be ≥ 1", value)
    at_exits: list[dict[str, Any]] = [
        {"thresholds": thresholds} for thresholds in _thresholds_of_exits(len(model.sidenets))
    ]
    with evaluating(model), torch.no_grad():
        calls = [*(partial(model, **at_exit) for at_exit in at_exits), model.mainnet]
        shapes = count_shapes(calls, batches, model.device, model.dtype, num_timed=timed_batches, progress=progress)
        num_rows = sum(shape.times * shape.rows for shape in shapes)
        if num_rows == 0:
            raise ArgumentError("batches", "must contain at least one row, got none")
        totals = [[shape.times * flops for flops in shape.flops] for shape in shapes]
        flops = [sum(column) / num_rows for column in zip(*totals, strict=True)]
        sample = [model_inputs(batch, model.device, model.dtype) for batch in typical_batches(shapes, timed_batches)]
        few = {name: _first_rows(value) for name, value in sample[0].items()}
        params = [_count_parameters(model, {**few, **at_exit}, "exit_logits") for at_exit in at_exits]
        params.append(_count_parameters(model.mainnet, few, "logits"))
        num_timed_rows = sum(_num_rows(batch) for batch in sample)
        rounds = per_row(time_calls(calls, sample, repeats, progress), num_timed_rows)
    milliseconds = medians(rounds)
    return ExitCosts(
        params=params[:-1],
        flops=flops[:-1],
        milliseconds=milliseconds[:-1],
        mainnet_params=params[-1],
        mainnet_flops=flops[-1],
        mainnet_milliseconds=milliseconds[-1],
        num_threads=torch.get_num_threads(),
        device=_device_name(model.device),
        rounds=rounds,
    )


def _thresholds_of_exits(num_sidenets: int) -> list[list[float]]:
    """Return, for each exit, θ such that every row is answered there: any confidence is > 0, none is > 1."""
    return [[0.0 if i == exit_index else 1.0 for i in range(num_sidenets)] for exit_index in range(num_sidenets + 1)]


@torch.enable_grad()
def _count_parameters(module: torch.nn.Module, inputs: dict[str, Any], output: str) -> int:
    params = detached_parameters(module)
    result = torch.func.functional_call(module, params, kwargs=inputs)
    # Unreached exits are NaN, without a gradient.
    return used_parameters(getattr(result, output), params)


def time_calls(calls: list[Callable], batches: list[dict], repeats: int, progress: bool) -> list[list[float]]:
    """Measure the seconds that each call takes for all batches, in each of `repeats` rounds. Calls alternate.

    Args:
        calls (`list[Callable]`): functions of the inputs of a batch, by name.
        batches (`list[dict]`): inputs, on the right device.
        repeats (`int`): number of rounds; each timing starts with the Timer's warm-up.
        progress (`bool`): show a progress bar.
    """
    # Imported here because it imports PyTorch's C++ build tools, which look for CUDA and warn.
    from torch.utils.benchmark import Timer

    threads = torch.get_num_threads()
    timers = [Timer("run()", globals={"run": partial(_run, call, batches)}, num_threads=threads) for call in calls]
    return [
        [timer.timeit(1).median for timer in timers]
        for _ in logging.tqdm(range(repeats), desc="Timing exits", disable=not progress)
    ]


def per_row(rounds: list[list[float]], num_rows: int) -> list[list[float]]:
    """Convert the seconds of [`time_calls`] to milliseconds per row."""
    return [[1e3 * seconds / num_rows for seconds in times] for times in rounds]


def medians(rounds: list[list[float]]) -> list[float]:
    """Return the median of each call over the rounds."""
    return [median(times) for times in zip(*rounds, strict=True)]


def _run(call: Callable, batches: list[dict]) -> None:
    for batch in batches:
        call(**batch)


def _num_rows(batch: dict) -> int:
    return next(value.shape[0] for value in batch.values() if isinstance(value, torch.Tensor))


def _first_rows(value: Any) -> Any:
    return value[:NUM_PARAMETER_ROWS] if isinstance(value, torch.Tensor) else value


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
