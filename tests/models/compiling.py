# SPDX-License-Identifier: Apache-2.0
"""A thread that compiles something else meanwhile."""

import threading
from contextlib import contextmanager

import torch


@contextmanager
def another_thread_compiles():
    """All the time, from the first line of the `with` block to its last."""
    begun, done = threading.Event(), threading.Event()

    def backend(graph, inputs):
        begun.set()
        done.wait()
        return graph.forward

    thread = threading.Thread(target=torch.compile(lambda x: x + 1, backend=backend), args=(torch.ones(2),))
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
