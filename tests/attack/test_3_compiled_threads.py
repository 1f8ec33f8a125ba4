# SPDX-License-Identifier: Apache-2.0
"""Calls in several threads, compiled or while others compile: each caller gets the answers to its own rows."""

import threading

import pytest
import torch

from tests.models.compiling import another_thread_compiles
from tests.models.tiny import bert_with_sidenets, texts


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def asked(model, batch):
    output = model(**batch, thresholds=0.6)
    return output.exit_index, output.logits


def wrong_answers(model, batches, expected, calls=400):
    """What four threads get that is not the answer to their own rows."""
    found = []

    def ask(first):
        for i in range(first, calls, 4):
            try:
                exits, logits = asked(model, batches[i % len(batches)])
            except Exception as error:
                found.append(error)
                continue
            right = expected[i % len(batches)]
            if not torch.equal(exits, right[0]) or not torch.allclose(logits, right[1], atol=1e-5):
                found.append((i, exits, right[0]))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_while_another_compiles():
    model = bert_with_sidenets()
    batches = [texts(1 + size % 6, seed=size) for size in range(12)]
    expected = [asked(model, batch) for batch in batches]
    with another_thread_compiles():
        assert wrong_answers(model, batches, expected) == []


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 crashes where threads compile at the same time")
def test_threads_that_compile_at_the_same_time():
    model = bert_with_sidenets((1,))
    batches = [texts(size, seed=size) for size in (2, 3)]
    expected = [asked(model, batch) for batch in batches]
    assert wrong_answers(torch.compile(model, backend="eager"), batches, expected) == []
