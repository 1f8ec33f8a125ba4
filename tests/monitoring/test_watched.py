# SPDX-License-Identifier: Apache-2.0
"""A watched runner gives the runner's answers, and counts what the MainNet would have said."""

import asyncio

import pytest
import torch
from datasets import Dataset

from hf_sidenet.attaching.checkpoint import load_checkpoint, recalibrate
from hf_sidenet.inference import RowError, SideNetRunner
from hf_sidenet.monitoring import ShadowMonitor, WatchedRunner

from ..attached import Runs, sentences
from ..models import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    runs.text(exit_layers=[1, 2]).save(runs.folder / "checkpoint")
    return load_checkpoint(runs.folder / "checkpoint")


@pytest.fixture(scope="module")
def texts():
    return [text for split in sentences().values() for text in split["text"]]


@pytest.fixture
def watched(checkpoint):
    model, tokenizer = checkpoint
    with SideNetRunner(model, tokenizer, batch_size=16, thresholds=0.6) as runner:
        yield WatchedRunner(runner, ShadowMonitor(0.3, share=1.0))


def expected(watched, texts):
    """Answers, and which of them the MainNet would not give."""
    answers, mainnet = list(watched.runner.predict(texts)), list(watched.runner.predict(texts, 1.0))
    last = watched.runner.reader.num_sidenets
    early = [each.exit_index < last for each in answers]
    wrong = [a.label_id != m.label_id for a, m in zip(answers, mainnet, strict=True)]
    return answers, early, wrong, mainnet


def check(watched, found, texts):
    answers, early, wrong, mainnet = expected(watched, texts)
    assert [(each.label, each.exit_index) for each in found] == [(each.label, each.exit_index) for each in answers]
    report = watched.monitor.report()
    assert (report.num_rows, report.num_chosen) == (len(texts), len(texts))
    assert (report.num_early, report.num_disagreements) == (sum(early), sum(wrong))
    # Worth watching at all.
    assert 0 < sum(wrong) < sum(early) < len(texts)
    kept = {row["text"]: row["label"] for row in watched.monitor.rows()}
    assert kept == {text: each.label for text, each in zip(texts, mainnet, strict=True)}


def test_an_ensemble_is_refused():
    # At θ = 1 its answers are not the MainNet's own.
    with (
        SideNetRunner(tiny.bert_with_sidenets(chain=[[0.0], [0.5, 0.0]])) as runner,
        pytest.raises(ValueError, match=r"`chain` must leave the MainNet's answers as they are .* got \[0.5, 0.0\]"),
    ):
        WatchedRunner(runner, ShadowMonitor(0.3))


@pytest.mark.medium
def test_a_stream(watched, texts):
    check(watched, list(watched.predict(iter(texts))), texts)


def test_a_server(watched, texts):
    async def serve():
        found = []
        for start in range(0, len(texts), 200):
            found += await asyncio.gather(*(watched.submit(text) for text in texts[start : start + 200]))
            await watched.drain()
        return found

    check(watched, asyncio.run(serve()), texts)


def test_a_server_that_stops_holds_no_later_row_up(watched, texts):
    async def serve(parts):
        for text in parts:
            await watched.submit(text)

    # What is on its way through the MainNet is canceled with the event loop.
    asyncio.run(serve(texts[:20]))
    # Of another one, that is closed, it never ends.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(serve(texts[20:40]))
    loop.close()
    watched.runner.max_waiting_rows = 1
    list(watched.predict(iter(texts[40:60])))
    asyncio.run(serve(texts[60:61] * 30))
    report = watched.monitor.report()
    assert report.num_rows == 90
    assert report.num_chosen + report.num_failed == 90


def test_more_rows_than_the_runner_may_hold_are_answered_and_not_looked_at(checkpoint, texts):
    async def serve():
        # All of them wait before the first is answered, and what the monitor asks for comes after them.
        found = await asyncio.gather(*(watched.submit(text) for text in texts))
        await watched.drain()
        return found

    with SideNetRunner(*checkpoint, batch_size=4, thresholds=0.6, max_waiting_rows=4) as runner:
        watched = WatchedRunner(runner, ShadowMonitor(0.3, share=1.0))
        found = asyncio.run(serve())
    early = sum(each.exit_index < len(checkpoint[0].sidenets) for each in found)
    report = watched.monitor.report()
    assert report.num_chosen + report.num_failed == report.num_rows == len(texts)
    assert report.num_early + report.num_failed == early
    assert 0 < report.num_early < 100 < report.num_failed


def test_a_stream_that_nobody_reads_to_its_end(watched, texts):
    stream = watched.predict(iter(texts))
    read = [next(stream) for _ in range(20)]
    stream.close()
    report = watched.monitor.report()
    assert (report.num_chosen, report.num_failed) == (20, report.num_rows - 20)
    assert report.num_early == sum(each.exit_index < watched.runner.reader.num_sidenets for each in read)


def test_rows_with_their_own_theta_are_not_looked_at(watched, texts):
    asyncio.run(watched.submit(texts[0], thresholds=0.0))
    assert watched.monitor.report().num_rows == 0
    with pytest.raises(ValueError, match="`thresholds` must not be given, because only the certified θ is monitored"):
        watched.predict(texts, thresholds=0.5)


def test_rows_that_cannot_be_answered(watched, texts):
    bad = {"input_ids": [-1]}
    found = list(watched.predict([texts[0], bad, texts[1]]))
    assert [each.error is None for each in found] == [True, False, True]
    assert (watched.monitor.report().num_failed, watched.monitor.report().num_chosen) == (1, 2)
    with pytest.raises(RowError):
        asyncio.run(watched.submit(bad))


def test_a_share_of_the_rows(checkpoint, texts):
    model, tokenizer = checkpoint
    watched = WatchedRunner(SideNetRunner(model, tokenizer, thresholds=0.6), ShadowMonitor(0.3, share=0.3, seed=0))
    list(watched.predict(texts))
    report = watched.monitor.report()
    assert report.num_rows == len(texts)
    assert 0.2 * len(texts) < report.num_chosen < 0.4 * len(texts)
    assert report.num_chosen == len(watched.monitor.rows())


@pytest.mark.medium
def test_a_shift_raises_the_alarm_and_new_thresholds_end_it(checkpoint):
    """In production come texts on which a SideNet is sure and wrong: its head is turned round, so that it is."""
    model, tokenizer = checkpoint
    rows = sentences(train=400, validation=400, test=400)
    texts = [text for split in rows.values() for text in split["text"]]
    before = [parameter.clone() for parameter in model.sidenets[0].parameters()]
    with torch.no_grad():
        for parameter in list(model.sidenets[0].parameters())[-2:]:
            parameter.neg_()
    try:
        monitor = ShadowMonitor(0.05, share=0.5, seed=0)
        watched = WatchedRunner(SideNetRunner(model, tokenizer, thresholds=0.6), monitor)
        list(watched.predict(texts[:800]))
        report = monitor.report()
        assert report.alarm
        # Of the 400 or so that were looked at.
        assert report.alarm_at < 50
        assert report.interval[0] > 0.05
        found = recalibrate(
            model, tokenizer, Dataset.from_list(monitor.rows()), target="disagreement<=0.05", progress=False
        )
        theta = found.config.thresholds if found.verdict == "attach" else 1.0
        again = WatchedRunner(SideNetRunner(model, tokenizer, thresholds=theta), ShadowMonitor(0.05, share=1.0))
        list(again.predict(texts[800:]))
        assert not again.monitor.alarm
        assert again.monitor.report().rate <= 0.05
    finally:
        for parameter, value in zip(model.sidenets[0].parameters(), before, strict=True):
            parameter.data.copy_(value)
