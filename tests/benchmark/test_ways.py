# SPDX-License-Identifier: Apache-2.0
"""Answers of each way, row by row, and which rows wait in a runner."""

import pytest
import torch

from hf_sidenet.benchmark import ways
from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.benchmark.ways import AsRunner, as_runner, by_first_stage, by_whole_batch
from hf_sidenet.inference import Stages
from hf_sidenet.inference.routings import ALL_BLOCKS, GATES, PER_BATCH, POOLED, ROUTINGS, engines_of, full_batch
from hf_sidenet.inference.rows import collate
from hf_sidenet.inference.runner import IMAGE_POOLS, LOOKAHEAD
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.models.tasks import SINGLE_LABEL
from tests.inference.flood import text_row
from tests.models.tiny import bert_with_sidenets, images, resnet_with_sidenet, texts

from .cases import Echo, rows_of


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
        # No row may exit before; all may exit here.
        theta = torch.ones(12, num_sidenets)
        if stop < num_sidenets:
            theta[:, stop] = sure[stop] - 1e-4
        logits, exit_index = answer(batch, theta)
        assert exit_index.tolist() == [stop] * 12
        torch.testing.assert_close(logits, every[:, stop], rtol=1e-4, atol=1e-5)
        if stop < num_sidenets:
            # One row that is not confident enough keeps all others going.
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
    # At temperature 100 all confidences are just above a third.
    assert by_whole_batch(Stages(model))(batch, theta)[1].tolist() == [2] * 12


def test_the_plain_mainnet_is_not_the_sidenet():
    model = bert_with_sidenets()
    with torch.no_grad():
        logits, _ = by_first_stage(PlainChain(plain_mainnet(model)))(batch_of(model), torch.zeros(12, 0))
        torch.testing.assert_close(logits, model(**texts(12), thresholds=1.0).logits)


def test_a_runner_answers_rows_of_an_earlier_window_at_the_end_of_the_next():
    """Odd rows wait. Windows of two batches: rows 0 to 3 are of the first, so the second ends with a flush."""
    echo = Echo(waits=True)
    runner = AsRunner(echo, "took 'echo'", window=2)
    rows = rows_of([3] * 12)
    done = [sorted(each.place for each in runner.put(rows[i : i + 2])) for i in range(0, 12, 2)]
    assert done == [[0], [2], [4], [1, 3, 5, 6, 7], [8], [10]]
    assert sorted(each.place for each in runner.flush()) == [9, 11]
    # After a restart no row belongs to an earlier window.
    assert [[each.place for each in runner.put(rows[i : i + 2])] for i in (0, 2)] == [[0], [2]]
    assert runner.note == "took 'echo'"


def test_a_runner_flushes_nothing_where_nobody_waits_so_long():
    echo = Echo()
    runner = AsRunner(echo, "", window=1)
    for row in rows_of([3] * 5):
        runner.put([row])
    assert [what for _, what, _ in echo.log] == ["put"] * 5


@pytest.mark.parametrize("fastest", [POOLED, PER_BATCH, GATES, ALL_BLOCKS])
def test_a_runner_takes_the_way_that_is_fastest_here(fastest, monkeypatch):
    def measured(makers, batches):
        assert [len(batch) for batch in batches] == [8, 8, 8]
        return {name: 1.0 if name == fastest else 2.0 for name in makers}

    monkeypatch.setattr(ways, "measure_routings", measured)
    model = bert_with_sidenets()
    rows = [text_row(place, length=5 + place % 7, thresholds=(0.5, 0.5), value=3 + place) for place in range(24)]
    batches = [rows[i : i + 8] for i in (0, 8, 16)]
    stages = Stages(model)
    runner = as_runner(stages, model, 0, 8, batches)
    assert runner.note == f"took {fastest!r}"
    made = engines_of(stages, model, pool_size=full_batch(8), num_in_flight=0)[fastest]()
    assert type(runner.engine) is type(made)
    assert getattr(runner.engine, "pool_size", None) == getattr(made, "pool_size", None)


def test_a_runner_measures_and_answers():
    model = bert_with_sidenets()
    rows = [text_row(place, length=5 + place % 7, thresholds=(0.5, 0.5), value=3 + place) for place in range(24)]
    batches = [rows[i : i + 8] for i in (0, 8, 16)]
    runner = as_runner(Stages(model), model, 0, 8, batches)
    assert runner.note in [f"took {name!r}" for name in ROUTINGS]
    with torch.inference_mode():
        done = [each for batch in batches for each in runner.put(batch)] + runner.flush()
    assert sorted(each.place for each in done) == list(range(24))
    assert runner.window == LOOKAHEAD
    image_model = resnet_with_sidenet()
    pictures = rows_of([1, 1])
    for row in pictures:
        row.inputs, row.length, row.thresholds = {"pixel_values": images(1)["pixel_values"][0]}, 0, (0.5,)
    assert as_runner(Stages(image_model), None, 0, 2, [pictures]).window == IMAGE_POOLS * full_batch(2) // 2
