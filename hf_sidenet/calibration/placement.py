# SPDX-License-Identifier: Apache-2.0
"""Choose a few SideNets out of all candidates, under a cost model, on rows that certify nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import torch
from torch import nn

from ..measurement.inputs import model_inputs
from ..measurement.records import ExitRecords
from ..models.blocks import counting_flops
from ..models.exit_rule import answers
from ..models.mainnet import evaluating
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.sidenet import SideNet
from ..models.tasks import SINGLE_LABEL, Task
from ..training.features import Candidate
from .chain import NO_CHAIN, Chaining, chained_records
from .path import find_path
from .targets import Risk, Target
from .temperature import fit_temperatures


# With more sets, only extensions of the best smaller ones are evaluated.
MAX_SETS = 64
BEAM = 4
COARSE_STEPS = 40


@dataclass(frozen=True)
class CostModel:
    """Costs as fractions of the plain MainNet's, in one currency.

    Args:
        blocks (`Mapping[int, float]`): the MainNet up to `exit_layer` blocks.
        heads (`Mapping[Candidate, float]`): each SideNet.
    """

    blocks: Mapping[int, float]
    heads: Mapping[Candidate, float]

    def exits(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the cost of each exit, the MainNet's last; a later exit includes the SideNets before it."""
        costs, spent = [], 0.0
        for candidate in candidates:
            spent += self.heads[candidate]
            costs.append(self.blocks[candidate.exit_layer] + spent)
        return [*costs, 1.0 + spent]


def cost_model(
    model: SideNetPreTrainedModel,
    batch: Mapping[str, Any],
    candidates: Sequence[Candidate],
    hidden_size: int,
    currency: str = "flops",
    input_sidenets: Mapping[Candidate, nn.Module] | None = None,
) -> CostModel:
    """Measure the cost of every candidate on a typical batch.

    Args:
        model ([`SideNetPreTrainedModel`]): model whose MainNet is measured; its SideNets are ignored.
        batch (`Mapping[str, Any]`): realistic inputs.
        candidates (`Sequence[Candidate]`): candidate SideNets.
        hidden_size (`int`): hidden size of the SideNets.
        currency (`str`, *optional*, defaults to `"flops"`): `"flops"` or `"params"`.
        input_sidenets (`Mapping[Candidate, nn.Module]`, *optional*): SideNets of the candidates before the first
            block, which are measured themselves.
    """
    inputs = model_inputs(batch, model.device, model.dtype)
    points = model.exit_points(**inputs)
    if currency == "params":
        total = sum(p.numel() for p in model.mainnet.parameters() if p.is_floating_point())
    else:
        with evaluating(model), torch.no_grad(), counting_flops() as counter:
            model.mainnet(**inputs)
        total = counter.get_total_flops() / next(iter(inputs.values())).shape[0]
    heads = {
        candidate: (
            _head(model, candidate, hidden_size, currency)
            if candidate.exit_layer
            else _input_cost((input_sidenets or {})[candidate], inputs, currency)
        )
        / total
        for candidate in candidates
    }
    return CostModel({point.exit_layer: getattr(point, currency) for point in points}, heads)


@torch.no_grad()
def _input_cost(sidenet: nn.Module, inputs: dict[str, Any], currency: str) -> float:
    if currency == "params":
        return sum(p.numel() for p in sidenet.parameters())
    weight = next(sidenet.parameters())
    given = model_inputs(inputs, weight.device, weight.dtype)
    with counting_flops() as counter:
        sidenet(given)
    return counter.get_total_flops() / next(iter(given.values())).shape[0]


def _head(model: SideNetPreTrainedModel, candidate: Candidate, hidden_size: int, currency: str) -> int:
    shape = model.block_shapes[candidate.exit_layer - 1]
    width, num_outputs = model.modality.pooled_size(shape, candidate.pooling), model.task.num_outputs(model.config)
    if currency == "params":
        with torch.device("meta"):
            return sum(p.numel() for p in SideNet(width, hidden_size, num_outputs).parameters())
    return 2 * (width * hidden_size + hidden_size * num_outputs)


@dataclass(frozen=True)
class Placement:
    """Set of SideNets with its expected cost.

    Args:
        candidates (`tuple[Candidate, ...]`): SideNets in the order of their blocks.
        cost (`float`): expected mean cost per row when the target is met; 1 or more if it never is.
        accuracy (`float`): expected accuracy at that cost.
    """

    candidates: tuple[Candidate, ...]
    cost: float
    accuracy: float


def records_of(
    candidates: Sequence[Candidate],
    logits: Mapping[Candidate, torch.Tensor],
    mainnet_logits: torch.Tensor,
    labels: torch.Tensor,
    task: Task = SINGLE_LABEL,
) -> ExitRecords:
    """Make the exit records of a set of candidates.

    Args:
        candidates (`Sequence[Candidate]`): candidates in the order of their blocks.
        logits (`Mapping[Candidate, torch.Tensor]`): logits of each, of shape `(num_rows, num_labels)`.
        mainnet_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): logits of the last exit and the reference.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        task ([`Task`], *optional*, defaults to single-label classification): the task.
    """
    columns = [*(logits[candidate] for candidate in candidates), mainnet_logits]
    return ExitRecords(torch.stack(columns, dim=1), labels, mainnet_logits, task)


def place(
    logits: Mapping[Candidate, torch.Tensor],
    mainnet_logits: torch.Tensor,
    labels: torch.Tensor,
    costs: CostModel,
    targets: Sequence[Target],
    *,
    num_certification_rows: int,
    level: float,
    test: str,
    budget: float | None = None,
    max_exits: int = 4,
    chaining: Chaining = NO_CHAIN,
    task: Task = SINGLE_LABEL,
) -> list[Placement]:
    """Rank placements, best first.

    Each block keeps the pooling with the smallest loss. A set of blocks is ranked by its expected cost at the point of
    its path where the target would just be certified on `num_certification_rows` rows like these; with budgets alone,
    by its expected accuracy within them.

    Args:
        logits (`Mapping[Candidate, torch.Tensor]`): logits of each candidate, of shape `(num_rows, num_labels)`.
        mainnet_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): logits of the MainNet.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        costs ([`CostModel`]): costs of every candidate.
        targets (`Sequence[Target]`): the targets.
        num_certification_rows (`int`): rows that will certify.
        level (`float`): δ of one guaranteed target.
        test (`str`): test of `accuracy_drop`.
        budget (`float`, *optional*): largest mean cost per row, in the currency of `costs`.
        max_exits (`int`, *optional*, defaults to 4): maximum number of SideNets.
        chaining ([`Chaining`], *optional*): which exits may build on earlier ones; by default none.
        task ([`Task`], *optional*, defaults to single-label classification): the task.

    Raises:
        ValueError: there are no candidates, or `max_exits` is < 1.
    """
    if not logits or max_exits < 1:
        raise ValueError(f"there must be candidates and `max_exits` must be ≥ 1, got {len(logits)} and {max_exits!r}.")
    blocks = _best_poolings(logits, labels, task)

    @cache
    def weight(first: Candidate, later: Candidate | None) -> float:
        columns = [logits[first], mainnet_logits if later is None else logits[later]]
        allowed = Chaining(mainnet=chaining.mainnet if later is None else chaining.sidenets)
        chain = allowed.fit(ExitRecords(torch.stack(columns, dim=1), labels, mainnet_logits, task))
        return chain[0][0] if chain else 0.0

    def value(chosen: tuple[Candidate, ...]) -> Placement:
        records = records_of(chosen, logits, mainnet_logits, labels, task)
        if chaining != NO_CHAIN:
            # On the first SideNet alone, which knows the most that is new, so that weights are fitted once per pair.
            chain = [[weight(chosen[0], later), *[0.0] * i] for i, later in enumerate((*chosen[1:], None))]
            records = chained_records(records, chain)
        return _expect(records, chosen, costs.exits(chosen), targets, num_certification_rows, level, test, budget)

    risks = any(target.is_risk for target in targets)

    def worth(placement: Placement) -> tuple:
        # Slightly prefer fewer SideNets: less to run and to trust.
        size = len(placement.candidates)
        over = budget is not None and placement.cost > budget
        if risks:
            return (over, placement.cost + 0.005 * size)
        return (over, -placement.accuracy + 0.001 * size, placement.cost)

    return sorted(_search(blocks, min(max_exits, len(blocks)), value, worth), key=worth)


def _search(blocks: list[Candidate], most: int, value: Callable, worth: Callable) -> list[Placement]:
    found: list[Placement] = []
    grown = [()]
    for size in range(1, most + 1):
        # One SideNet per place.
        sets = [chosen for chosen in combinations(blocks, size) if len(set(_layers(chosen))) == size]
        if len(sets) > MAX_SETS:
            extended = {
                _with(chosen, one) for chosen in grown for one in blocks if one.exit_layer not in _layers(chosen)
            }
            sets = sorted(extended, key=lambda chosen: [(one.exit_layer, one.size) for one in chosen])
        values = [value(chosen) for chosen in sets]
        found += values
        grown = [placement.candidates for placement in sorted(values, key=worth)[:BEAM]]
    return found


def _with(chosen: tuple[Candidate, ...], one: Candidate) -> tuple[Candidate, ...]:
    return tuple(sorted((*chosen, one), key=lambda candidate: candidate.exit_layer))


def _layers(chosen: tuple[Candidate, ...]) -> list[int]:
    return [candidate.exit_layer for candidate in chosen]


def _best_poolings(logits: Mapping[Candidate, torch.Tensor], labels: torch.Tensor, task: Task) -> list[Candidate]:
    best: dict[tuple[int, str], tuple[float, Candidate]] = {}
    for candidate, values in logits.items():
        # Sizes differ in cost too, so that the loss alone does not decide between them.
        place = (candidate.exit_layer, candidate.size)
        loss = task.loss(values, labels).item()
        if place not in best or loss < best[place][0]:
            best[place] = (loss, candidate)
    return [best[place][1] for place in sorted(best)]


def _expect(
    records: ExitRecords,
    chosen: tuple[Candidate, ...],
    costs: list[float],
    targets: Sequence[Target],
    num_rows: int,
    level: float,
    test: str,
    budget: float | None,
) -> Placement:
    temperatures = fit_temperatures(records.exit_logits, records.labels, records.task)
    risks = [target for target in targets if isinstance(target, Risk)]
    per_exit = torch.tensor(costs, dtype=torch.float64)
    reached = Placement(chosen, costs[-1], records.accuracy(records.mainnet_logits))
    best = None
    path = find_path(records, costs, temperatures, (risks or targets)[0], COARSE_STEPS)
    start = 0
    for target in risks:
        if target.limit <= 0:
            p_values = [
                target.expected(records, records.route(point, temperatures), temperatures, num_rows, test).p_value
                for point in path
            ]
            start = max(start, p_values.index(min(p_values)))
    for thresholds in path[start:]:
        exit_index = records.route(thresholds, temperatures)
        if any(
            target.expected(records, exit_index, temperatures, num_rows, test).p_value > level
            for target in risks
            if not target.is_conditional or (exit_index < records.num_exits - 1).any()
        ):
            break
        right = records.accuracy(answers(records.exit_logits, exit_index))
        reached = Placement(chosen, per_exit[exit_index].mean().item(), right)
        if not risks and budget is not None and reached.cost <= budget and (best is None or right > best.accuracy):
            best = reached
    return best or reached
