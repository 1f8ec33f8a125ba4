# SPDX-License-Identifier: Apache-2.0
"""Answers of the rivals, row by row."""

import pytest
import torch

from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.benchmark.ways import by_first_stage, by_whole_batch
from hf_sidenet.inference import Stages
from hf_sidenet.inference.rows import collate
from hf_sidenet.models.exit_rule import confidence
from tests.models.tiny import bert_with_sidenets, images, resnet_with_sidenet, texts

from .cases import rows_of


CPU = torch.device("cpu")


def batch_of(model, count=12):
    batch = collate(rows_of([9] * count), {}, CPU)
    batch.inputs = texts(count) if model.is_text else images(count)
    if not model.is_text:
        for row in batch.rows:
            row.length = 0
    return batch


@pytest.mark.parametrize("make", [bert_with_sidenets, resnet_with_sidenet])
@torch.no_grad()
def test_the_first_stage_answers_everybody(make):
    model = make()
    batch = batch_of(model)
    logits, exit_index = by_first_stage(Stages(model))(batch, torch.zeros(12, 0))
    torch.testing.assert_close(logits, model(**batch.inputs, thresholds=0.0).logits)
    assert exit_index.tolist() == [0] * 12


@pytest.mark.parametrize("make", [bert_with_sidenets, resnet_with_sidenet])
@torch.no_grad()
def test_the_whole_batch_stops_where_its_least_sure_row_does(make):
    model = make()
    batch = batch_of(model)
    every = model(**batch.inputs, thresholds=1.0).exit_logits
    sure = confidence(every)[:, :-1].amin(0)
    answer = by_whole_batch(Stages(model))
    num_sidenets = len(model.sidenets)
    for stop in range(num_sidenets + 1):
        # Nobody may leave before, everybody may there.
        theta = torch.ones(12, num_sidenets)
        if stop < num_sidenets:
            theta[:, stop] = sure[stop] - 1e-4
        logits, exit_index = answer(batch, theta)
        assert exit_index.tolist() == [stop] * 12
        torch.testing.assert_close(logits, every[:, stop], rtol=1e-4, atol=1e-5)
        if stop < num_sidenets:
            # One row that is not sure enough takes all others on.
            theta[3, stop] = 1.0
            assert answer(batch, theta)[1].tolist() == [num_sidenets] * 12


@torch.no_grad()
def test_the_whole_batch_reads_temperatures():
    model = bert_with_sidenets(temperatures=[0.01, 100.0, 1.0])
    batch = batch_of(model)
    sure = confidence(model(**batch.inputs, thresholds=1.0).exit_logits[:, 0], 0.01)
    theta = torch.full((12, 2), sure.min().item() - 1e-4)
    assert by_whole_batch(Stages(model))(batch, theta)[1].tolist() == [0] * 12
    theta[:, 0] = 1.0
    # At temperature 100 nobody is surer than a third and a little.
    assert by_whole_batch(Stages(model))(batch, theta)[1].tolist() == [2] * 12


def test_the_plain_mainnet_is_not_the_sidenet():
    model = bert_with_sidenets()
    with torch.no_grad():
        logits, _ = by_first_stage(PlainChain(plain_mainnet(model)))(batch_of(model), torch.zeros(12, 0))
        torch.testing.assert_close(logits, model(**texts(12), thresholds=1.0).logits)
