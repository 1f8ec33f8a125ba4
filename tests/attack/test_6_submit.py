# SPDX-License-Identifier: Apache-2.0
"""`submit` from many threads and event loops, some of which are gone: one worker, no deadlock."""

import asyncio
import gc
import threading

import pytest
import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import Stages
from tests.inference.flood import token_rows
from tests.models.tiny import bert_with_sidenets


ROW = {"input_ids": [5, 6, 7]}
COUNT = 16_000


@pytest.fixture(scope="module")
def stages():
    torch.manual_seed(0)
    return Stages(bert_with_sidenets())


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "hf_sidenet runner"]


def gone():
    """Whether all workers end, those of runners that nobody has any more too."""
    gc.collect()
    for thread in workers():
        thread.join(30)
    return workers() == []


@pytest.mark.medium
def test_first_calls_from_several_threads_start_one_worker(stages):
    for closed in (True, False) * 5:
        runner, barrier = SideNetRunner(stages, batch_size=4, max_wait_ms=0), threading.Barrier(8)
        found = []

        def first(runner=runner, barrier=barrier, found=found):
            barrier.wait()
            found.append(asyncio.run(runner.submit(ROW)).label)

        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(workers()) == 1
        if closed:
            runner.close()
        del runner, first, threads, thread
        assert gone()


async def submitted(runner, rows):
    return await asyncio.wait_for(asyncio.gather(*(runner.submit(row) for row in rows)), 60)


def test_those_who_wait_with_a_loop_that_is_gone_hold_nobody_back(stages):
    with SideNetRunner(stages, batch_size=2, max_waiting_rows=4, max_wait_ms=1) as runner:
        # One loop is closed while its callers wait, one is never run again.
        for is_closed in (True, False):
            loop = asyncio.new_event_loop()
            waiting = [loop.create_task(runner.submit(row)) for row in token_rows(12, 5)]
            loop.run_until_complete(asyncio.sleep(0))
            if is_closed:
                loop.close()
        assert len(asyncio.run(submitted(runner, [ROW] * 12))) == 12
        loop.run_until_complete(asyncio.gather(*waiting))
        loop.close()


def test_many_give_up_at_once(stages):
    async def impatient(runner):
        tasks = [asyncio.ensure_future(runner.submit(ROW)) for _ in range(COUNT)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return found, (await runner.submit(ROW)).label

    with SideNetRunner(stages, batch_size=4, max_waiting_rows=8, max_wait_ms=1) as runner:
        found, label = asyncio.run(impatient(runner))
        assert all(isinstance(each, asyncio.CancelledError) for each in found)
        assert label is not None
        assert not runner._worker._outside


def test_a_closed_runner_stays_closed(stages):
    runner = SideNetRunner(stages)
    # Before anybody came.
    runner.close()
    for late in (lambda: asyncio.run(runner.submit(ROW)), runner.start):
        with pytest.raises(RuntimeError, match="the runner is closed and accepts no rows"):
            late()
    assert gone()
