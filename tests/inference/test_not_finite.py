# SPDX-License-Identifier: Apache-2.0
"""Logits that are NaN or infinite are no answer, wherever one is given; the model's own forward shows them."""

import asyncio

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import RowError, SingleStage, Stages
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.routings import ROUTINGS
from hf_sidenet.monitoring import ShadowMonitor, WatchedRunner
from tests.models.tiny import bert_with_sidenets


ROWS = [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}]
# θ at which the first SideNet answers, and at which the MainNet does.
EARLY, LATE = [0.0, 1.0], [1.0, 1.0]
WHY = "row {} has no answer: the logits of exit 2 are NaN or infinite."


def model_with(value):
    """One of the MainNet's logits is that, its SideNets are sound."""
    torch.manual_seed(0)
    model = bert_with_sidenets()
    with torch.no_grad():
        model.mainnet.classifier.bias[1] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_runner(routing, value):
    model = model_with(value)
    runner = SideNetRunner(model, routing=routing)
    for row, found in enumerate(runner.predict(ROWS, LATE)):
        assert str(found.error) == WHY.format(row)
        assert found.label is found.label_id is found.logits is found.confidence is found.exit_index is None
    assert [found.error for found in runner.predict(ROWS, EARLY)] == [None, None]
    with pytest.raises(RowError, match="exit 2 are NaN"):
        list(runner.predict(ROWS, LATE, on_error="raise"))
    with torch.no_grad():
        shown = model(torch.tensor([[5, 6, 7]]), thresholds=1.0).logits
    assert not shown.isfinite().all()


def test_a_class_that_is_ruled_out_is_an_answer():
    found = list(SideNetRunner(model_with(-float("inf"))).predict(ROWS, LATE))
    assert all(each.error is None and each.label_id != 1 for each in found)


def test_submit():
    async def both(runner):
        return await asyncio.gather(*(runner.submit(row, LATE) for row in ROWS), return_exceptions=True)

    with SideNetRunner(model_with(float("nan"))) as runner:
        found = asyncio.run(both(runner))
        assert all(isinstance(each, RowError) and "exit 2 are NaN" in str(each) for each in found)
        assert asyncio.run(runner.submit(ROWS[0], EARLY)).error is None


def test_a_stage_by_itself():
    stages = Stages(model_with(float("nan")))
    first, last = SingleStage(stages, 0, reader=RowReader(stages)), SingleStage(stages, 2)
    packets = SingleStage(stages, 1).go_on(first.begin([(ROWS, (1.0, 1.0))])[0].staying)[0].staying
    (step,) = last.go_on(packets)
    # Failed, not answered: it is not the row that is wrong.
    assert step.answered == []
    assert sorted(str(each.error) for each in step.failed) == [WHY.format(0), WHY.format(1)]


def test_the_monitor_counts_no_agreement_with_nan():
    monitor = ShadowMonitor(0.5, share=1.0)
    watched = WatchedRunner(SideNetRunner(model_with(float("nan")), thresholds=EARLY), monitor)
    assert [found.error for found in watched.predict(ROWS)] == [None, None]
    report = monitor.report()
    assert (report.num_chosen, report.num_disagreements, report.num_failed) == (0, 0, 2)
