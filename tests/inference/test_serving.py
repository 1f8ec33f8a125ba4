# SPDX-License-Identifier: Apache-2.0
"""`SideNetRunner.submit`: rows of many callers share the batches, and none is lost."""

import asyncio
import threading

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import RowError
from tests.models.tiny import bert_with_sidenets

from .flood import assert_answers, is_bad, one_by_one, token_rows


THETA = (0.6, 0.6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = list(THETA)
    return model


async def submitted(runner, raw, **kwargs):
    return await asyncio.gather(*(runner.submit(row, **kwargs) for row in raw), return_exceptions=True)


@pytest.mark.slow
def test_a_flood_from_four_producers_comes_back_right_and_in_order(model):
    raw = token_rows(10_000, 512, bad_every=97)
    expected = one_by_one(model, raw, THETA)
    answers = [None] * 4
    with SideNetRunner(model, batch_size=32, max_waiting_rows=300) as runner:

        def produce(number):
            answers[number] = asyncio.run(submitted(runner, raw[number::4]))

        threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        good = [(a, e) for a, e in zip(answers[number], expected[number::4], strict=True) if e is not None]
        assert_answers([answer for answer, _ in good], [answer for _, answer in good])
        for answer, row in zip(answers[number], raw[number::4], strict=True):
            assert isinstance(answer, RowError) == is_bad(row)
    assert_answers(list(SideNetRunner(model, batch_size=32).predict(raw)), expected)


def test_rows_of_several_loops_and_thetas(model):
    raw = token_rows(40, 20)
    with SideNetRunner(model, batch_size=8, routing="pooled") as runner:
        early = asyncio.run(submitted(runner, raw, thresholds=0.0))
        late = asyncio.run(submitted(runner, raw, thresholds=[1.0, 1.0]))
    assert {p.exit_index for p in early} == {0}
    assert {p.exit_index for p in late} == {2}
    assert_answers(late, one_by_one(model, raw, (1.0, 1.0)))


def test_one_row_is_answered_without_company(model):
    with SideNetRunner(model, batch_size=1000, pool_size=1000, max_wait_ms=1, routing="pooled") as runner:
        prediction = asyncio.run(runner.submit({"input_ids": [5, 6, 7]}, thresholds=1.0))
    assert prediction.exit_index == 2


def test_no_more_rows_are_inside_than_allowed(model):
    inside = []
    with SideNetRunner(model, batch_size=4, max_waiting_rows=10, max_wait_ms=1, routing="pooled") as runner:
        runner.start()

        async def flood():
            tasks = [asyncio.ensure_future(runner.submit(row)) for row in token_rows(200, 5)]
            while not all(task.done() for task in tasks):
                inside.append(len(runner._worker._inside))
                await asyncio.sleep(0)
            return [await task for task in tasks]

        answers = asyncio.run(flood())
    assert len(answers) == 200
    assert 1 <= max(inside) <= 10


def test_callers_that_give_up_hold_nobody_back(model):
    async def impatient(runner):
        rows = token_rows(120, 5)
        tasks = [asyncio.ensure_future(runner.submit(row)) for row in rows]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with SideNetRunner(model, batch_size=4, max_waiting_rows=8, max_wait_ms=1, routing="pooled") as runner:
        answers = asyncio.run(asyncio.wait_for(impatient(runner), 60))
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert all(answer.label is not None for answer in answers[1::2])


def test_close_answers_what_was_taken_and_refuses_the_rest(model):
    runner = SideNetRunner(model, batch_size=64, pool_size=64, max_wait_ms=60_000, routing="pooled")

    async def close_soon():
        tasks = [asyncio.ensure_future(runner.submit(row, thresholds=1.0)) for row in token_rows(10, 5)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(runner.close)
        return [await task for task in tasks]

    assert len(asyncio.run(asyncio.wait_for(close_soon(), 30))) == 10
    with pytest.raises(RuntimeError, match="the runner is closed"):
        asyncio.run(runner.submit({"input_ids": [5]}))
    runner.close()


def test_callers_outside_are_refused_when_it_closes(model):
    runner = SideNetRunner(model, batch_size=4, max_waiting_rows=4, max_wait_ms=60_000, pool_size=64, routing="pooled")

    async def close_soon():
        tasks = [asyncio.ensure_future(runner.submit(row, thresholds=1.0)) for row in token_rows(9, 5)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(runner.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(close_soon(), 30))
    assert [isinstance(answer, RuntimeError) for answer in answers] == [False] * 4 + [True] * 5


def test_a_broken_runner_tells_everybody(model):
    runner = SideNetRunner(model, batch_size=2, routing="pooled")
    runner.start()
    runner._settled.reader = None
    answers = asyncio.run(asyncio.wait_for(submitted(runner, token_rows(6, 5)), 30))
    assert all("the runner broke" in str(answer) for answer in answers)
    with pytest.raises(RuntimeError, match="the runner broke and accepts no rows"):
        asyncio.run(runner.submit({"input_ids": [5]}))
    runner.close()
