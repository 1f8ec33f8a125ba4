# SPDX-License-Identifier: Apache-2.0
"""The runner's way with a stream of batches: no row waits longer than a window after its own."""

import pytest
import torch

from hf_sidenet.benchmark import as_runner as module
from hf_sidenet.benchmark.as_runner import AsRunner, as_runner
from hf_sidenet.inference import Stages
from hf_sidenet.inference.routings import ALL_BLOCKS, GATES, PER_BATCH, POOLED, ROUTINGS, engines_of, full_batch
from hf_sidenet.inference.runner import LOOKAHEAD
from tests.inference.flood import text_row
from tests.models.tiny import bert_with_sidenets, images, resnet_with_sidenet

from .cases import Echo, rows_of


def test_rows_of_an_earlier_window_are_answered_at_the_end_of_the_next():
    """Odd rows wait. Windows of two batches: rows 0 to 3 are of the first, so the second ends with a flush."""
    echo = Echo(waits=True)
    runner = AsRunner(echo, "took 'echo'", window=2)
    rows = rows_of([3] * 12)
    done = [sorted(each.place for each in runner.put(rows[i : i + 2])) for i in range(0, 12, 2)]
    assert done == [[0], [2], [4], [1, 3, 5, 6, 7], [8], [10]]
    assert sorted(each.place for each in runner.flush()) == [9, 11]
    # Again from the start: nobody is of an earlier window.
    assert [[each.place for each in runner.put(rows[i : i + 2])] for i in (0, 2)] == [[0], [2]]
    assert runner.note == "took 'echo'"


def test_nothing_is_flushed_where_nobody_waits_so_long():
    echo = Echo()
    runner = AsRunner(echo, "", window=1)
    for row in rows_of([3] * 5):
        runner.put([row])
    assert [what for _, what, _ in echo.log] == ["put"] * 5


@pytest.mark.parametrize("fastest", [POOLED, PER_BATCH, GATES, ALL_BLOCKS])
def test_it_takes_the_way_that_is_fastest_here(fastest, monkeypatch):
    def measured(makers, batches):
        assert [len(batch) for batch in batches] == [8, 8, 8]
        return {name: 1.0 if name == fastest else 2.0 for name in makers}

    monkeypatch.setattr(module, "measure_routings", measured)
    model = bert_with_sidenets()
    rows = [text_row(place, length=5 + place % 7, thresholds=(0.5, 0.5), value=3 + place) for place in range(24)]
    batches = [rows[i : i + 8] for i in (0, 8, 16)]
    stages = Stages(model)
    runner = as_runner(stages, model, 0, 8, batches)
    assert runner.note == f"took {fastest!r}"
    made = engines_of(stages, model, pool_size=full_batch(8), num_in_flight=0)[fastest]()
    assert type(runner.engine) is type(made)
    assert getattr(runner.engine, "pool_size", None) == getattr(made, "pool_size", None)


def test_it_measures_and_answers():
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
    assert as_runner(Stages(image_model), None, 0, 2, [pictures]).window == 1
