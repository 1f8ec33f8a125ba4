# SPDX-License-Identifier: Apache-2.0
"""A running runner answers as the model was when it was made, until it is told otherwise."""

import asyncio

import pytest
import torch

from hf_sidenet import SideNetRunner
from tests.inference.flood import token_rows
from tests.models.tiny import bert_with_sidenets


def answers(predictions):
    # Rows that are batched in another way are rounded in another way.
    return [(each.exit_index, each.label, pytest.approx(each.confidence, abs=1e-4)) for each in predictions]


async def submitted(runner, rows):
    return answers(await asyncio.gather(*(runner.submit(row) for row in rows)))


def test_after_an_alarm_and_in_training():
    model = bert_with_sidenets()
    model.config.thresholds = 0.6
    rows = token_rows(60, 9)
    with SideNetRunner(model, batch_size=8, routing="pooled") as runner:
        old = answers(runner.predict(rows))
        # What `recalibrate` does to a model.
        model.config.thresholds, model.config.temperatures = [0.5, 0.7], [3.0, 0.3, 2.0]
        new = answers(SideNetRunner(model, batch_size=8, routing="pooled").predict(rows))
        assert sum(a[0] != b[0] for a, b in zip(old, new, strict=True)) > 5
        assert answers(runner.predict(rows)) == asyncio.run(submitted(runner, rows)) == old
        runner.update(model)
        assert answers(runner.predict(rows)) == asyncio.run(submitted(runner, rows)) == new

        statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.sidenets[1].train()
        for call in (
            lambda: runner.predict(rows),
            lambda: asyncio.run(runner.submit(rows[0])),
            lambda: runner.stages(0, None, {"input_ids": torch.tensor([[5, 6]])}),
        ):
            with pytest.raises(ValueError, match=r"got its BatchNorm 'sidenets\.1\.norm' in training"):
                call()
        model.eval()
        assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
        assert answers(runner.predict(rows)) == new
