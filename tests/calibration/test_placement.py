# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_sidenet.calibration import Chaining, CostModel, cost_model, parse_targets, place, records_of
from hf_sidenet.measurement import measure_costs
from hf_sidenet.training.features import Candidate
from tests.measurement.models import texts, tiny_bert, tiny_resnet
from tests.models import tiny

from .cases import records


BLOCKS = {k: k / 6 for k in range(1, 6)}


def candidates(num_rows=600, num_blocks=4):
    """Candidates of rising quality; of each block a good and a useless pooling."""
    rows = records(num_rows, num_sidenets=num_blocks)
    logits = {}
    for i in range(num_blocks):
        logits[Candidate(i + 1, "cls")] = torch.randn(num_rows, 2)
        logits[Candidate(i + 1, "mean")] = rows.exit_logits[:, i]
    costs = CostModel(BLOCKS, dict.fromkeys(logits, 0.001))
    return logits, rows.mainnet_logits, rows.labels, costs


def placed(target, max_exits=3, **kwargs):
    arguments = {"num_certification_rows": 1200, "level": 0.05, "test": "paired", "max_exits": max_exits}
    return place(*candidates(**kwargs.pop("rows", {})), parse_targets(target), **arguments, **kwargs)


@pytest.mark.medium
def test_the_better_pooling_of_a_block_stays():
    assert {c.pooling for placement in placed("accuracy_drop<=0.05") for c in placement.candidates} == {"mean"}


@pytest.mark.medium
@pytest.mark.parametrize("max_exits", [1, 2, 3])
def test_every_set_is_looked_at_and_the_cheapest_wins(max_exits):
    found = placed("accuracy_drop<=0.05", max_exits)
    sets = [tuple(c.exit_layer for c in placement.candidates) for placement in found]
    assert len(set(sets)) == len(sets) == {1: 4, 2: 10, 3: 14}[max_exits]
    assert all(list(layers) == sorted(layers) for layers in sets)
    assert found[0].cost < 1
    assert found[0].cost <= min(placement.cost for placement in found) + 0.005 * max_exits


def test_a_budget_takes_the_most_accurate_set_that_keeps_it():
    found = placed("flops<=0.5", budget=0.5)
    assert found[0].cost <= 0.5
    # Sets that start too deep cannot keep it, however accurate they are.
    assert {tuple(c.exit_layer for c in p.candidates) for p in found if p.cost > 0.5} >= {(4,)}
    within = [placement.cost <= 0.5 for placement in found]
    assert within == sorted(within, reverse=True)


def test_a_set_is_worth_what_its_chain_makes_of_it():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (600,), generator=generator)
    right = torch.nn.functional.one_hot(labels, 2).float()
    # Each knows a little, in its own way.
    logits = {Candidate(k, "mean"): 1.5 * right + torch.randn(600, 2, generator=generator) for k in range(1, 4)}
    mainnet = 2.5 * right + torch.randn(600, 2, generator=generator)
    costs = CostModel(BLOCKS, dict.fromkeys(logits, 0.001))
    arguments = {"num_certification_rows": 1200, "level": 0.05, "test": "paired", "max_exits": 3}

    def best(target, **kwargs):
        return place(logits, mainnet, labels, costs, parse_targets(target), chaining=Chaining(**kwargs), **arguments)[
            0
        ]

    assert best("accuracy_drop<=0.02", sidenets=True).cost < best("accuracy_drop<=0.02").cost - 0.03
    # More accurate than the MainNet, and cheaper.
    assert best("accuracy_drop<=0", sidenets=True, mainnet=True).cost < 0.9
    assert best("accuracy_drop<=0").cost >= 1


@pytest.mark.medium
def test_many_blocks_are_searched_by_growing():
    logits, mainnet, labels, _ = candidates(num_rows=200, num_blocks=9)
    costs = CostModel({k: k / 10 for k in range(1, 10)}, dict.fromkeys(logits, 0.001))
    arguments = {"num_certification_rows": 1200, "level": 0.05, "test": "paired"}
    found = place(logits, mainnet, labels, costs, parse_targets("accuracy_drop<=0.1"), **arguments)
    sizes = [len(placement.candidates) for placement in found]
    assert sizes.count(1) == 9
    assert sizes.count(2) == 36
    # Four of the best pairs, grown by one.
    assert 7 <= sizes.count(3) <= 28


def test_nothing_to_place():
    _, mainnet, labels, costs = candidates()
    with pytest.raises(ValueError, match="there must be candidates and `max_exits` must be ≥ 1, got 0 and 4"):
        place(
            {}, mainnet, labels, costs, parse_targets("flops<=0.5"), num_certification_rows=9, level=0.1, test="paired"
        )


def test_records_of_a_set():
    logits, mainnet, labels, _ = candidates()
    chosen = [Candidate(1, "mean"), Candidate(3, "mean")]
    rows = records_of(chosen, logits, mainnet, labels)
    assert torch.equal(rows.exit_logits[:, 1], logits[chosen[1]])
    assert torch.equal(rows.exit_logits[:, 2], rows.mainnet_logits)


@pytest.mark.parametrize("currency", ["flops", "params"])
@pytest.mark.parametrize(
    ("model", "inputs", "pooling"), [(tiny_bert, texts, "mean"), (tiny_resnet, tiny.images, "gap")]
)
def test_the_cost_model_foresees_what_is_measured(model, inputs, pooling, currency):
    model, batch = model((1, 3)), inputs(4)
    batch.pop("labels", None)
    chosen = [Candidate(1, pooling), Candidate(3, pooling)]
    foreseen = cost_model(model, batch, chosen, 32, currency).exits(chosen)
    measured = measure_costs(model, [batch], repeats=1).fractions(currency)
    assert foreseen == pytest.approx(measured, rel=0.01)
