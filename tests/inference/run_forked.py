# SPDX-License-Identifier: Apache-2.0
"""A server that loads before it forks: what a child answers, as JSON. Its argument is the number of threads."""

import asyncio
import json
import os
import signal
import sys

import torch

from hf_sidenet import SideNetRunner
from hf_sidenet.monitoring import ShadowMonitor, WatchedRunner
from tests.models.tiny import bert_with_sidenets


# Enough for torch to share it out.
ROWS = [{"input_ids": [5 + i % 90] * 100} for i in range(32)]


async def submitted(runner):
    return [answer.label for answer in await asyncio.gather(*(runner.submit(row) for row in ROWS))]


def predicted(runner):
    return [answer.label for answer in runner.predict(ROWS)]


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    runner = SideNetRunner(bert_with_sidenets(), thresholds=0.6, batch_size=8).start()
    monitor = ShadowMonitor(0.5, share=1.0)
    expected = [predicted(runner), asyncio.run(submitted(runner))]
    # As other threads would, at the moment of the fork.
    monitor._lock.acquire()
    if os.fork() == 0:
        # It would deadlock.
        signal.alarm(60)
        found = [asyncio.run(submitted(runner)), predicted(runner)]
        watched = [answer.label for answer in WatchedRunner(runner, monitor).predict(ROWS)]
        runner.close()
        print(json.dumps({"right": [*found, watched] == [expected[0]] * 3, "threads": torch.get_num_threads()}))
        sys.stdout.flush()
        os._exit(0)
    monitor._lock.release()
    _, status = os.wait()
    # The parent's own thread goes on.
    print(json.dumps({"status": status, "right": asyncio.run(submitted(runner)) == expected[1]}))
    runner.close()


if __name__ == "__main__":
    main()
