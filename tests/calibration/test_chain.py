# SPDX-License-Identifier: Apache-2.0
"""Weights of earlier exits: where they help, where they do not, and what they leave alone."""

import pytest
import torch

from hf_sidenet.calibration import Chaining, chained_records
from hf_sidenet.measurement import ExitRecords


ROWS, CLASSES = 300, 3


def made(*strengths, shared=(), seed=0):
    """Records whose exits know the class with some strength, each in its own way; those in `shared` repeat exit 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    right = torch.nn.functional.one_hot(labels, CLASSES).float()
    exits = [s * right + torch.randn(ROWS, CLASSES, generator=generator) for s in strengths]
    for i in shared:
        exits[i] = 1.5 * exits[0]
    exit_logits = torch.stack(exits, dim=1)
    return ExitRecords(exit_logits, labels, exit_logits[:, -1].clone())


def test_exits_that_know_other_things_are_added():
    records = made(2.0, 1.5, 2.0)
    chain = Chaining(sidenets=True, mainnet=True).fit(records)
    assert [len(weights) for weights in chain] == [1, 2]
    assert chain[0][0] > 0.5
    assert min(chain[1]) > 0.3
    fresh = made(2.0, 1.5, 2.0, seed=1)
    together = chained_records(fresh, chain)
    for i in (1, 2):
        gain = fresh.accuracy(together.exit_logits[:, i]) - fresh.accuracy(fresh.exit_logits[:, i])
        assert gain > 0.05
    assert torch.equal(together.exit_logits[:, 0], fresh.exit_logits[:, 0])
    assert torch.equal(together.mainnet_logits, fresh.mainnet_logits)


@pytest.mark.parametrize(
    ("chaining", "expected"),
    [
        (Chaining(), [False, False]),
        (Chaining(sidenets=True), [True, False]),
        (Chaining(mainnet=True), [False, True]),
    ],
)
def test_only_those_that_may(chaining, expected):
    records = made(2.0, 1.5, 2.0)
    chain = chaining.fit(records)
    assert [any(weights) for weights in chain or [[], []]] == expected
    if chain is None:
        assert chained_records(records, chain) is records


@pytest.mark.parametrize("records", [made(0.0, 3.0), made(2.0, 0.0, shared=(1,))])
def test_nothing_is_added_where_held_out_rows_gain_nothing(records):
    assert Chaining(sidenets=True, mainnet=True).fit(records) is None


def test_too_few_rows():
    records = made(2.0, 2.0).select([0])
    assert Chaining(mainnet=True).fit(records) is None


def test_logits_in_half_precision():
    records = made(2.0, 1.5)
    half = ExitRecords(records.exit_logits.bfloat16(), records.labels, records.mainnet_logits)
    (weights,) = Chaining(mainnet=True).fit(half)
    assert weights[0] == pytest.approx(Chaining(mainnet=True).fit(records)[0][0], abs=0.05)
