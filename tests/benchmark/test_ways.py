# SPDX-License-Identifier: Apache-2.0
"""Answers of the rivals, row by row."""

import pytest
import torch

from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.benchmark.ways import by_cascade, by_first_stage, by_whole_batch
from hf_sidenet.inference import Stages
from hf_sidenet.inference.rows import collate
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.models.tasks import SINGLE_LABEL
from tests.models.tiny import bert, bert_with_sidenets, images, resnet_with_sidenet, texts

from .cases import rows_of


CPU = torch.device("cpu")


def batch_of(model, count=12):
    batch = collate(rows_of([9] * count), {}, CPU)
    batch.inputs = texts(count) if model.modality is TEXT else images(count)
    if model.modality is not TEXT:
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
    sure = SINGLE_LABEL.confidence(every)[:, :-1].amin(0)
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
    sure = SINGLE_LABEL.confidence(model(**batch.inputs, thresholds=1.0).exit_logits[:, 0], 0.01)
    theta = torch.full((12, 2), sure.min().item() - 1e-4)
    assert by_whole_batch(Stages(model))(batch, theta)[1].tolist() == [0] * 12
    theta[:, 0] = 1.0
    # At temperature 100 nobody is surer than a third and a little.
    assert by_whole_batch(Stages(model))(batch, theta)[1].tolist() == [2] * 12


@pytest.mark.parametrize("threshold", [0.0, None, 1.0])
@torch.no_grad()
def test_a_cascade_asks_the_large_model_only_where_the_small_one_is_not_sure(threshold):
    torch.manual_seed(1)
    small, large = bert(num_hidden_layers=1, initializer_range=1.0), bert(initializer_range=1.0)
    batch = batch_of(bert_with_sidenets())
    own, other = small(**batch.inputs).logits, large(**batch.inputs).logits
    sure = SINGLE_LABEL.confidence(own)
    threshold = sure.sort().values[6].item() if threshold is None else threshold
    asked = []
    large.register_forward_hook(lambda *_: asked.append(1))
    logits, exit_index = by_cascade(PlainChain(small), PlainChain(large), threshold)(batch, torch.zeros(12, 0))
    assert exit_index.tolist() == [0 if s > threshold else 1 for s in sure.tolist()]
    for i in range(12):
        torch.testing.assert_close(logits[i], (own, other)[exit_index[i]][i], rtol=1e-4, atol=1e-5)
    assert len(asked) == (threshold > 0)
    assert set(exit_index.tolist()) == ({0} if threshold == 0 else {1} if threshold == 1 else {0, 1})


def test_the_plain_mainnet_is_not_the_sidenet():
    model = bert_with_sidenets()
    with torch.no_grad():
        logits, _ = by_first_stage(PlainChain(plain_mainnet(model)))(batch_of(model), torch.zeros(12, 0))
        torch.testing.assert_close(logits, model(**texts(12), thresholds=1.0).logits)
