# SPDX-License-Identifier: Apache-2.0
"""What must hold for a MainNet with SideNets, checked on one MainNet with random weights."""

import copy
import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_sidenet.inference import Stages
from hf_sidenet.inference.stages import StagesError
from hf_sidenet.models.modeling_base import SideNetPreTrainedModel


TOLERANCE = 1e-4
# Between the confidences of rows that leave and of rows that stay.
GAP = 1e-3
SEEDS = 20
ROWS_ALONE = 4
# How notes begin that are not about SideNets.
ITSELF = "the MainNet itself"
# Larger MainNets are not saved.
QUICK = 3_000_000

Inputs = dict[str, torch.Tensor]


class Wrong(Exception):
    """An answer or an error that must not be."""


class Fails(Wrong):
    """An error that must not be."""


class NotRun(Exception):
    """These checks say nothing about this MainNet."""


class Refused(Exception):
    """SideNets cannot be attached."""


@dataclass
class Findings:
    """What was found.

    Args:
        outcome (`str`): `"exact"`, `"refused"`, `"wrong"` or `"not run"`.
        reason (`str`): why, unless exact.
        kind (`str`): class of the MainNet.
        params (`int`): its size.
        blocks (`int`): number of blocks.
        exit_layers (`list[int]`): numbers of blocks before the SideNets.
        first_blocks (`list[str]`): names of the first blocks.
        stages (`str`): `"yes"`, or why it cannot run in stages.
        saved (`str`): `"yes"`, or why it was not.
        batches (`dict[str, list[int]]`): for every batch, how many rows left at each exit.
        difference (`float`): largest difference between answers with exits on and off, relative to their scale.
        alone (`float`): largest difference between a row alone and in its batch, relative to the scale.
        notes (`list[str]`): what else is odd.
    """

    outcome: str = "exact"
    reason: str = ""
    kind: str = ""
    params: int = 0
    blocks: int = 0
    exit_layers: list[int] = field(default_factory=list)
    first_blocks: list[str] = field(default_factory=list)
    stages: str = ""
    saved: str = ""
    batches: dict[str, list[int]] = field(default_factory=dict)
    difference: float = 0.0
    alone: float = 0.0
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def check(
    mainnet: PreTrainedModel,
    model_class: type[SideNetPreTrainedModel],
    batches: dict[str, Inputs],
    step: Callable[[str], None],
    found: Findings,
    **attach: Any,
) -> None:
    """Check one MainNet, and note what is found.

    Args:
        mainnet (`PreTrainedModel`): a task model in evaluation mode.
        model_class (`type[SideNetPreTrainedModel]`): class with SideNets.
        batches (`dict[str, dict[str, torch.Tensor]]`): inputs by name; rows of the first are also run alone.
        step (`Callable[[str], None]`): told what begins.
        found ([`Findings`]): filled in.
        attach: arguments of `from_mainnet`.

    Raises:
        Wrong, Refused, NotRun: what the outcome is, unless all is well.
    """
    found.kind = type(mainnet).__name__
    found.params = sum(parameter.numel() for parameter in mainnet.parameters())
    step("plain")
    # Some change themselves on inputs that they meet, as BigBird does on short texts.
    untouched = copy.deepcopy(mainnet)
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(mainnet.forward).parameters else {}
    plain = {}
    for name, inputs in list(batches.items()):
        try:
            plain[name] = mainnet(**inputs, **fixed).logits
        except Exception as error:
            if not plain:
                _attach(untouched, model_class, inputs, found, attach)
                raise NotRun(f"the MainNet fails without SideNets: {_line(error)}") from error
            found.notes.append(f"the MainNet fails without SideNets on {name}: {_line(error)}")
            del batches[name]
    first = next(iter(batches))
    spread = _spread(plain[first])
    if not spread > 10 * TOLERANCE:
        raise NotRun(f"the MainNet's answers do not depend on the rows ({spread:.1g})")
    step("attach")
    model = _attach(untouched, model_class, batches[first], found, attach)
    step("off")
    for name, inputs in batches.items():
        off = _answer(model, inputs, 1.0)
        if not torch.equal(off.logits, plain[name]):
            raise Wrong(f"exits off, {name}: logits differ by {_difference(off.logits, plain[name]):.1g}")
        if off.exit_logits.isnan().any():
            raise Wrong(f"exits off, {name}: exit_logits are NaN")
    step("on")
    thresholds = []
    for name, inputs in batches.items():
        try:
            thresholds.append(_compare(model, name, inputs, found))
        except Fails as error:
            if not _is_misled(mainnet, fixed, inputs, plain[name]):
                raise
            found.notes.append(f"fails on {name}, where the MainNet itself depends on padding: {error}")
    step("alone")
    _check_alone(model, mainnet, fixed, batches[first], thresholds[0], found)
    step("stages")
    try:
        Stages(model)
        found.stages = "yes"
    except StagesError as error:
        found.stages = _line(error)
    except Exception as error:
        raise Wrong(f"Stages raises {type(error).__name__}: {_line(error)}") from error
    step("save")
    _check_saved(model, batches[first], thresholds[0], found)


def _is_misled(mainnet: PreTrainedModel, fixed: dict[str, Any], inputs: Inputs, logits: torch.Tensor) -> bool:
    """Return whether texts are padded on the left, and a MainNet answers them differently if padded on the right."""
    mask = inputs.get("attention_mask")
    if mask is None or mask[:, 0].all():
        return False
    order = (1 - mask).argsort(dim=1, stable=True)
    right = {name: value.gather(1, order) for name, value in inputs.items()}
    return not _difference(mainnet(**right, **fixed).logits, logits) <= TOLERANCE


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__


def _spread(logits: torch.Tensor) -> float:
    """Return how much rows differ, relative to the scale."""
    return float((logits - logits.mean(0)).abs().max() / logits.abs().max())


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the largest difference, relative to the scale of `right`; infinite where only one is NaN."""
    if left.shape != right.shape or not torch.equal(left.isnan(), right.isnan()):
        return float("inf")
    kept = ~right.isnan()
    if not kept.any():
        return 0.0
    return float((left - right)[kept].abs().max() / right[kept].abs().max().clamp(min=1e-9))


def _attach(
    mainnet: PreTrainedModel,
    model_class: type[SideNetPreTrainedModel],
    inputs: Inputs,
    found: Findings,
    attach: dict[str, Any],
) -> SideNetPreTrainedModel:
    try:
        model = model_class.from_mainnet(copy.deepcopy(mainnet), exit_layers=[1], **attach)
        blocks = model.layout.blocks
        last = len(model.layout.gates)
        found.blocks, found.first_blocks = len(blocks), blocks[:3]
        found.exit_layers = sorted({1, (last + 1) // 2, last})
        if last > 1:
            if model.modality.has_tokens:
                model = model_class.from_mainnet(mainnet, exit_layers=found.exit_layers, **attach)
            else:
                model.add_exits(found.exit_layers[1:])
    except ValueError as error:
        raise Refused(_line(error)) from error
    except Exception as error:
        raise Wrong(f"attaching raises {type(error).__name__}: {_line(error)}") from error
    for shape in model.block_shapes:
        if not model.modality.has_tokens and len(shape) == 3 and shape[0] == shape[1] != shape[2]:
            raise Wrong(f"SideNets read a map of shape {shape} as if its channels came first")
    for seed in range(SEEDS):
        _spread_out(model, inputs, seed)
        try:
            _thresholds(_answer(model, inputs, 1.0).exit_logits)
        except NotRun:
            continue
        break
    return model


def _spread_out(model: SideNetPreTrainedModel, inputs: Inputs, seed: int) -> None:
    """Give untrained SideNets confidences that differ between rows."""
    generator = torch.Generator().manual_seed(seed)

    def randomize(weight: torch.Tensor, scale: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * scale)

    norms = [module for module in model.sidenets.modules() if isinstance(module, nn.BatchNorm1d)]
    for sidenet in model.sidenets:
        randomize(sidenet.dense.weight, 1.0)
        randomize(sidenet.out_proj.weight, 0.3)
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    _answer(model, inputs, 1.0)
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


def _answer(model: SideNetPreTrainedModel, inputs: Inputs, thresholds: float | list[float]) -> Any:
    try:
        return model(**inputs, thresholds=thresholds)
    except Exception as error:
        rows = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        raise Fails(f"θ = {thresholds} on {rows} raises {type(error).__name__}: {_line(error)}") from error


def _thresholds(exit_logits: torch.Tensor, *, all_exits: bool = True) -> list[float]:
    """Return θ with which some rows leave at every SideNet, and some reach the end.

    Args:
        exit_logits (`torch.Tensor` of shape `(rows, exits, labels)`): logits with exits off.
        all_exits (`bool`, *optional*, defaults to `True`):
            Whether a SideNet whose confidences are the same for all rows is an error; else its θ is 1.
    """
    confidences = exit_logits[:, :-1].double().softmax(-1).amax(-1)
    remaining = torch.arange(len(confidences))
    thresholds = []
    num = confidences.shape[1]
    for i in range(num):
        ordered = confidences[remaining, i].sort().values
        wanted = len(ordered) // (num - i + 1)
        possible = [
            leave for leave in range(1, len(ordered) - (num - i) + 1) if ordered[-leave] - ordered[-leave - 1] > GAP
        ]
        if not possible and not all_exits:
            thresholds.append(1.0)
            continue
        if not possible:
            raise NotRun(f"confidences of SideNet {i} are too close: {ordered.tolist()}")
        leave = min(possible, key=lambda one: abs(one - wanted))
        threshold = float(ordered[-leave] + ordered[-leave - 1]) / 2
        thresholds.append(threshold)
        remaining = remaining[confidences[remaining, i] <= threshold]
    return thresholds


def _choose(exit_logits: torch.Tensor, thresholds: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exit of each row, and the logits of every exit up to it, NaN beyond."""
    confidences = exit_logits[:, :-1].double().softmax(-1).amax(-1)
    leaves = confidences > torch.tensor(thresholds, dtype=torch.double)
    index = torch.where(leaves.any(1), leaves.int().argmax(1), len(thresholds))
    beyond = torch.arange(exit_logits.shape[1]) > index.unsqueeze(1)
    return index, exit_logits.masked_fill(beyond.unsqueeze(-1), torch.nan)


def _compare(model: SideNetPreTrainedModel, name: str, inputs: Inputs, found: Findings) -> list[float]:
    """Let rows leave, and compare with choosing among all exits."""
    full = _answer(model, inputs, 1.0).exit_logits
    # Padded left, the first tokens are all the same.
    thresholds = _thresholds(full, all_exits=not found.batches)
    index, expected = _choose(full, thresholds)
    found.batches[name] = index.bincount(minlength=full.shape[1]).tolist()
    output = _answer(model, inputs, thresholds)
    if output.exit_index.tolist() != index.tolist():
        raise Wrong(f"{name}: rows leave at {output.exit_index.tolist()}, not {index.tolist()}")
    rows = torch.arange(len(index))
    for what, got, wanted in (
        ("exit_logits", output.exit_logits, expected),
        ("logits", output.logits, full[rows, index]),
    ):
        difference = _difference(got, wanted)
        found.difference = max(found.difference, difference)
        if not difference <= TOLERANCE:
            places = sorted({int(i) for i in index[((got - wanted).abs() > TOLERANCE).flatten(1).any(1)]})
            raise Wrong(f"{name}: {what} of rows that leave at {places} differ by {difference:.1g}")
    return thresholds


def _alone(inputs: Inputs) -> Iterator[tuple[str, int, Inputs]]:
    """Yield some rows without their padding, and with it where there is some."""
    for i in range(min(ROWS_ALONE, len(next(iter(inputs.values()))))):
        row = {name: value[i : i + 1] for name, value in inputs.items()}
        kept = row["attention_mask"][0].bool() if "attention_mask" in row else None
        if kept is not None and not kept.all():
            yield "alone without padding", i, {name: value[:, kept] for name, value in row.items()}
            yield "alone with padding", i, row
        else:
            yield "alone", i, row


def _check_alone(
    model: SideNetPreTrainedModel,
    mainnet: PreTrainedModel,
    fixed: dict[str, Any],
    inputs: Inputs,
    thresholds: list[float],
    found: Findings,
) -> None:
    full = _answer(model, inputs, 1.0).exit_logits
    together = _answer(model, inputs, thresholds)
    plain = mainnet(**inputs, **fixed).logits
    scale = full.abs().amax((0, 2))
    own: dict[str, float] = {}
    for how, i, row in _alone(inputs):
        try:
            difference = float((mainnet(**row, **fixed).logits[0] - plain[i]).abs().max() / scale[-1])
        except Exception as error:
            found.notes.append(f"{ITSELF} fails on a row {how}: {_line(error)}")
            continue
        if not difference <= TOLERANCE:
            own[how] = max(own.get(how, 0.0), difference)
            continue
        every = _answer(model, row, 1.0).exit_logits[0]
        differences = (every - full[i]).abs().amax(1) / scale
        found.alone = max(found.alone, float(differences.max()))
        if not differences.max() <= TOLERANCE:
            raise Wrong(
                f"a row {how}: exit {int(differences.argmax())} differs by {float(differences.max()):.1g} with exits "
                f"off, the MainNet itself by {difference:.1g}"
            )
        chosen = _answer(model, row, thresholds)
        if chosen.exit_index.tolist() != together.exit_index[i : i + 1].tolist():
            raise Wrong(f"a row {how} leaves at {chosen.exit_index.item()}, not {together.exit_index[i].item()}")
        difference = float((chosen.logits[0] - together.logits[i]).abs().max() / full.abs().max())
        found.alone = max(found.alone, difference)
        if not difference <= TOLERANCE:
            raise Wrong(f"a row {how} gets logits that differ by {difference:.1g}")
    for how, difference in own.items():
        found.notes.append(f"{ITSELF} answers a row {how} differently, by {difference:.1g}")


def _check_saved(model: SideNetPreTrainedModel, inputs: Inputs, thresholds: list[float], found: Findings) -> None:
    if found.params > QUICK:
        found.saved = "not tried: large"
        return
    expected = _answer(model, inputs, thresholds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = model.mainnet_auto_class.from_pretrained(folder).eval()
    except Exception as error:
        raise Wrong(f"saving and loading raises {type(error).__name__}: {_line(error)}") from error
    got = _answer(loaded, inputs, thresholds)
    if type(loaded) is not type(model):
        raise Wrong(f"loading gives a {type(loaded).__name__}, not a {type(model).__name__}")
    difference = _difference(got.exit_logits, expected.exit_logits)
    if not difference <= TOLERANCE:
        raise Wrong(f"a loaded checkpoint answers differently, by {difference:.1g}")
    found.saved = "yes"
