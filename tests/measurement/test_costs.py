# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_sidenet.measurement.costs import CURRENCIES, ExitCosts, measure_costs

from .models import BERT, texts, tiny_bert, tiny_resnet


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
    with pytest.raises(ValueError, match="`batches` must hold at least one row"):
        measure_costs(tiny_bert(), batches)


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="`repeats` must be ≥ 1"):
        measure_costs(tiny_bert(), [texts(1)], repeats=0)


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
