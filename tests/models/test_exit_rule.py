# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sidenet.models.exit_rule import (
    answers,
    chain_exits,
    chained,
    check_thresholds,
    leaves,
    own_mainnet_logits,
    route,
)
from hf_sidenet.models.tasks import SINGLE_LABEL

from .naive import choose


def test_confidence_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    torch.testing.assert_close(SINGLE_LABEL.confidence(logits), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(
        SINGLE_LABEL.confidence(logits, 2.0)[1], torch.tensor(math.sqrt(3) / (1 + math.sqrt(3)))
    )


def test_two_logits_are_the_papers_sigmoid():
    z = torch.linspace(-5, 5, 11)
    p = z.sigmoid()
    torch.testing.assert_close(SINGLE_LABEL.confidence(torch.stack([torch.zeros(11), z], -1)), torch.maximum(p, 1 - p))


def test_half_precision_is_read_in_float32():
    logits = torch.tensor([[8.0, 0.0], [7.0, 0.0]], dtype=torch.bfloat16)
    high, low = SINGLE_LABEL.confidence(logits)
    assert high.dtype == torch.float32
    assert high > low


def test_leaving_is_strict_and_nan_stays():
    values = torch.tensor([0.5, 0.7, 1.0, math.nan])
    assert leaves(values, 0.7).tolist() == [False, False, True, False]
    assert leaves(values, 1.0).tolist() == [False] * 4
    assert leaves(values, torch.tensor([0.4, 0.9, 0.9, 0.0])).tolist() == [True, False, True, False]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_sidenets=st.integers(1, 3),
    thresholds=st.lists(st.floats(0, 1.2), min_size=3, max_size=3),
    temperatures=st.lists(st.floats(0.2, 5), min_size=4, max_size=4),
)
def test_route_is_the_loop_over_rows(seed, num_sidenets, thresholds, temperatures):
    thresholds, temperatures = thresholds[:num_sidenets], temperatures[: num_sidenets + 1]
    exit_logits = torch.randn(7, num_sidenets + 1, 3, generator=torch.Generator().manual_seed(seed)) * 3
    exit_index = route(exit_logits, thresholds, temperatures)
    expected, logits, ties = choose(exit_logits, thresholds, temperatures)
    assert exit_index[~ties].tolist() == expected[~ties].tolist()
    assert torch.equal(answers(exit_logits, expected), logits)


CHAIN = [[0.5], [0.25, -1.0]]


def test_each_exit_builds_on_those_before():
    own = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])]
    found = chain_exits(own, CHAIN)
    assert [logits.tolist() for logits in found] == [[[1.0, 0.0]], [[0.5, 2.0]], [[4.25, -2.0]]]
    # The whole chain may not have run.
    assert len(chain_exits(own[:2], CHAIN)) == 2
    assert all(a is b for a, b in zip(chain_exits(own, [[0.0], [0.0, 0.0]]), own, strict=True))
    for missing in (None, own[:1]):
        with pytest.raises(ValueError, match="`earlier` must have the logits of the 2 exits before"):
            chained(own[2], missing, CHAIN[1])


def test_no_gradient_flows_through_the_chain():
    own = [torch.randn(3, 2, requires_grad=True) for _ in range(3)]
    chain_exits(own, CHAIN)[2].pow(2).sum().backward()
    assert own[0].grad is None
    assert own[1].grad is None
    assert own[2].grad.abs().sum() > 0


def test_the_chain_is_computed_in_float32():
    own = [torch.full((1, 2), 100.0, dtype=torch.bfloat16), torch.full((1, 2), 0.25, dtype=torch.bfloat16)]
    assert chain_exits(own, CHAIN)[1].tolist() == [[50.25, 50.25]]


@pytest.mark.parametrize("chain", [CHAIN, [[0.7], [0.0, 0.0]]])
def test_the_mainnets_own_logits_are_found_again(chain):
    own = torch.randn(5, 3, 4)
    made = torch.stack(chain_exits(list(own.unbind(1)), chain), dim=1)
    torch.testing.assert_close(own_mainnet_logits(made, chain), own[:, -1])
    if not any(chain[-1]):
        assert torch.equal(own_mainnet_logits(made, chain), own[:, -1])


def test_a_higher_theta_never_answers_earlier():
    exit_logits = torch.randn(50, 3, 4) * 2
    lower, higher = route(exit_logits, [0.4, 0.5], [1, 1, 1]), route(exit_logits, [0.6, 0.7], [1, 1, 1])
    assert (higher >= lower).all()
    assert (higher > lower).any()


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (math.nan, "NaN, got nan"),
        (-0.1, "≥ 0 and not NaN, got -0.1"),
        ([0.5], r"one value per SideNet \(2\), got 1"),
        ([0.5, "0.9"], "got '0.9'"),
        ("0.9", "must be a number, a list"),
        (True, "must be a number, a list"),
        (torch.tensor([0.5, 0.5]), r"shape \(batch, num_sidenets\).*got shape \(2,\)"),
        (torch.tensor(0.5), r"got shape \(\)"),
        (torch.full((3, 3), 0.5), "num_sidenets=2"),
        (torch.full((4, 2), 0.5), "batch=3"),
        (torch.tensor([[0.5, 0.5], [0.5, math.nan], [0.5, 0.5]]), "not NaN"),
    ],
)
def test_impossible_thresholds(thresholds, message):
    with pytest.raises(ValueError, match=message):
        check_thresholds(thresholds, 2, 3)
