# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hf_sidenet.measurement.costs as costs_module
from hf_sidenet.measurement.costs import CURRENCIES, ExitCosts, measure_costs

from .models import BERT, texts, tiny_bert, tiny_deberta, tiny_resnet


HIDDEN, INTERMEDIATE, LENGTH, LABELS = BERT["hidden_size"], BERT["intermediate_size"], 7, BERT["num_labels"]


def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def by_hand():
    return ExitCosts(
        params=[10, 30, 44],
        flops=[1.0, 2.0, 4.4],
        milliseconds=[0.5, 0.75, 1.25],
        mainnet_params=40,
        mainnet_flops=4.0,
        mainnet_milliseconds=1.0,
        num_threads=1,
        device="cpu",
    )


def test_parameters_of_a_text_model():
    model = tiny_bert()
    costs = measure_costs(model, [texts(3)], repeats=1)
    bert, (first, second) = model.mainnet.bert, model.sidenets
    layers = bert.encoder.layer
    assert costs.params[0] == size(bert.embeddings, layers[0], first)
    assert costs.params[1] == size(bert.embeddings, *layers[:3], first, second)
    assert costs.params[2] == size(model)
    assert costs.mainnet_params == size(model.mainnet)


def test_parameters_of_an_image_model():
    model = tiny_resnet()
    costs = measure_costs(model, [{"pixel_values": torch.randn(2, 3, 32, 32)}], repeats=1)
    resnet, (first, second) = model.mainnet.resnet, model.sidenets
    stages = resnet.encoder.stages
    assert costs.params == [
        size(resnet.embedder, stages[0], first),
        size(resnet.embedder, *stages[:3], first, second),
        size(model),
    ]
    assert costs.mainnet_params == size(model.mainnet)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_flops_of_a_text_model(attention):
    """2 operations per multiply-add; attention is two products of (length, width) matrices, padding included."""
    model = tiny_bert((1, 3), attn_implementation=attention)
    costs = measure_costs(model, [texts(3, LENGTH), texts(2, LENGTH)], repeats=1)
    projections = 4 * 2 * LENGTH * HIDDEN * HIDDEN
    feed_forward = 2 * 2 * LENGTH * HIDDEN * INTERMEDIATE
    block = projections + feed_forward + 2 * 2 * LENGTH * LENGTH * HIDDEN
    sidenet = 2 * HIDDEN * 32 + 2 * 32 * LABELS
    head = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * LABELS
    assert costs.flops == [block + sidenet, 3 * block + 2 * sidenet, 4 * block + 2 * sidenet + head]
    assert costs.mainnet_flops == 4 * block + head


def test_flops_per_row_weigh_long_batches_by_their_rows():
    model = tiny_bert()
    short, long = (measure_costs(model, [texts(1, length)], repeats=1).flops[0] for length in (3, 9))
    both = measure_costs(model, [texts(3, 3), texts(1, 9)], repeats=1).flops[0]
    assert both == pytest.approx((3 * short + long) / 4)


def count_by_running_everything(model, batches):
    """FLOPs per row at each exit and of the MainNet, every batch run."""
    num_sidenets, num_rows = len(model.sidenets), sum(len(batch["input_ids"]) for batch in batches)
    totals = []
    for exit_index in range(num_sidenets + 2):
        thresholds = [float(i != exit_index) for i in range(num_sidenets)]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            for batch in batches:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                if exit_index > num_sidenets:
                    model.mainnet(**inputs)
                else:
                    model(**inputs, thresholds=thresholds)
        totals.append(counter.get_total_flops() / num_rows)
    return totals


def mixed(count):
    """Batches of mixed lengths and sizes, most shapes more than once."""
    return [texts(1 + i % 3, 3 + i % 5, seed=i) for i in range(count)]


@pytest.mark.medium
def test_flops_over_mixed_lengths_are_those_of_running_everything():
    model, batches = tiny_bert(), mixed(40)
    calls = []
    model.mainnet.register_forward_pre_hook(lambda *_: calls.append(1))
    costs = measure_costs(model, iter(batches), repeats=1, timed_batches=1)
    # 15 shapes and the parameters at 3 exits and for the MainNet, and the 3 runs of the Timer for each: not 4 * 40.
    assert len(calls) == (15 + 1 + 3) * 4
    assert [*costs.flops, costs.mainnet_flops] == count_by_running_everything(model, batches)


def test_flops_of_a_mainnet_whose_work_is_not_per_row():
    """DeBERTa-v2 projects its relative positions once per batch, so a row costs more in a small batch."""
    model = tiny_deberta()
    batches = [texts(1, 5), texts(4, 5), texts(4, 7), texts(1, 5), texts(3, 5)]
    costs = measure_costs(model, batches, repeats=1, timed_batches=1)
    assert [*costs.flops, costs.mainnet_flops] == count_by_running_everything(model, batches)
    alone, together = (count_by_running_everything(model, [texts(rows, 5)])[-1] for rows in (1, 4))
    assert alone > 1.05 * together


def test_a_data_loader_of_any_kind():
    rows = [{name: value[i] for name, value in texts(10).items()} for i in range(10)]
    model = tiny_bert()
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    from_loader, from_list = (
        measure_costs(model, batches, repeats=1, timed_batches=1) for batches in (loader, list(loader))
    )
    assert from_loader.flops == from_list.flops
    assert from_loader.params == from_list.params


def test_padding_is_paid_for():
    """A mask saves no FLOPs: what counts is the shape."""
    model, batch = tiny_bert(), texts(3)
    full = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    assert measure_costs(model, [batch], repeats=1).flops == measure_costs(model, [full], repeats=1).flops


def test_the_timed_batches_are_typical(monkeypatch):
    timed = []

    def record(calls, batches, repeats, progress):
        timed.extend(batch["input_ids"].shape[1] for batch in batches)
        return [[float(len(batches))] * len(calls)] * repeats

    monkeypatch.setattr(costs_module, "time_calls", record)
    batches = [texts(2, length) for length in (3, 9, 4, 9, 5, 8, 3, 5, 4, 8)]
    costs = measure_costs(tiny_bert(), batches, timed_batches=5)
    # One of each pair in 3 3 4 4 5 5 8 8 9 9; seconds per batch of 2 rows become milliseconds per row.
    assert timed == [3, 4, 5, 8, 9]
    assert costs.milliseconds == [500.0] * 3


def test_times_keep_what_they_are_medians_of(monkeypatch):
    seconds = [[0.001, 0.002, 0.004, 0.004], [0.003, 0.004, 0.004, 0.008], [0.001, 0.001, 0.002, 0.002]]
    monkeypatch.setattr(costs_module, "time_calls", lambda *_: seconds)
    costs = measure_costs(tiny_bert(), [texts(2)], timed_batches=1)
    assert costs.rounds == [[1e3 * each / 2 for each in times] for times in seconds]
    assert (costs.milliseconds, costs.mainnet_milliseconds) == ([0.5, 1.0, 2.0], 2.0)
    # A quarter leaves at the first exit, a half at the second: 0.625, 0.46875 and 0.625 of the MainNet's time.
    assert costs.spread([0.25, 0.5, 0.25]) == pytest.approx((0.46875, 0.625))
    assert replace(costs, rounds=costs.rounds[:1]).spread([1.0, 0.0, 0.0]) is None
    with pytest.raises(ValueError, match="`rounds` must have a time for each exit and for the plain MainNet"):
        replace(costs, rounds=[[1.0, 2.0]])


def test_flops_of_an_image_model():
    model = tiny_resnet()
    costs = measure_costs(model, [{"pixel_values": torch.randn(2, 3, 32, 32)}], repeats=1)
    stem = 2 * 8 * 3 * 7 * 7 * 16 * 16
    # After the stem's pooling 8x8; the first stage keeps that, one basic layer is two 3x3 convolutions.
    stage = 2 * (2 * 8 * 8 * 3 * 3) * 8 * 8
    sidenet = 2 * model.sidenets[0].dense.in_features * 32 + 2 * 32 * 3
    assert costs.flops[0] == stem + stage + sidenet
    assert costs.flops[0] < costs.flops[1] < costs.flops[2]
    sidenets = sum(2 * s.dense.in_features * 32 + 2 * 32 * 3 for s in model.sidenets)
    assert costs.flops[2] - costs.mainnet_flops == sidenets


def test_times_and_surroundings():
    costs = measure_costs(tiny_bert(), [texts(2)], repeats=2)
    assert len(costs.milliseconds) == 3
    assert min(*costs.milliseconds, costs.mainnet_milliseconds) > 0
    assert costs.num_threads == torch.get_num_threads()
    assert costs.device == "cpu"


def test_the_model_is_left_as_it_was():
    model = tiny_bert()
    model.set_freeze_mainnet("none")
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    measure_costs(model, [texts(2)], repeats=1)
    assert model.training
    assert model.mainnet.bert.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("batches", [[], [texts(0)], [{}]])
def test_no_rows_are_refused(batches):
    with pytest.raises(ValueError, match="`batches` must contain at least one row"):
        measure_costs(tiny_bert(), batches)


@pytest.mark.parametrize("name", ["repeats", "timed_batches"])
def test_nothing_to_time_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be ≥ 1, got 0"):
        measure_costs(tiny_bert(), [texts(1)], **{name: 0})


def test_fractions_and_average_by_hand():
    costs = by_hand()
    assert costs.fractions("params") == [0.25, 0.75, 1.1]
    assert costs.fractions("flops") == pytest.approx([0.25, 0.5, 1.1])
    assert costs.fractions("milliseconds") == [0.5, 0.75, 1.25]
    exit_index = torch.tensor([0, 0, 1, 2])
    assert [costs.average(exit_index, currency) for currency in CURRENCIES] == pytest.approx([0.5875, 0.525, 0.75])


def test_impossible_arguments_of_costs():
    costs = by_hand()
    with pytest.raises(ValueError, match=r"`currency` must be one of .*'dollars'"):
        costs.fractions("dollars")
    with pytest.raises(ValueError, match="at least one row"):
        costs.average(torch.tensor([], dtype=torch.long), "flops")
    for index in (-1, 3):
        with pytest.raises(ValueError, match=r"`exit_index` must be in \[0, 3\)"):
            costs.average(torch.tensor([0, index]), "flops")
    with pytest.raises(ValueError, match="one value per exit"):
        ExitCosts([1, 2], [1.0], [1.0, 2.0], 1, 1.0, 1.0, 1, "cpu")
