# SPDX-License-Identifier: Apache-2.0
"""Peak memory in a separate process."""

import pytest
import torch

from hf_sidenet.benchmark.memory import peak_memory

from .cases import Echo, echo_method, rows_of


CPU = torch.device("cpu")
MEGABYTES = 400
BATCHES = [rows_of([3, 4]), rows_of([5])]


class Greedy(Echo):
    def put(self, rows):
        # Written to: untouched pages take no memory.
        torch.ones(MEGABYTES * 250_000)
        return super().put(rows)


def modest():
    return echo_method()


def greedy(kind):
    return echo_method(kind, answerer=Greedy())


class Picky(Echo):
    """Answers the batches of `BATCHES` and no others."""

    def __init__(self):
        super().__init__()
        self.due = iter(BATCHES)

    def put(self, rows):
        due = next(self.due)
        assert [(row.place, row.length, row.thresholds) for row in rows] == [
            (row.place, row.length, row.thresholds) for row in due
        ]
        for row, expected in zip(rows, due, strict=True):
            assert list(row.inputs) == list(expected.inputs)
            for name, value in expected.inputs.items():
                assert value.dtype == row.inputs[name].dtype
                assert torch.equal(value, row.inputs[name])
        return super().put(rows)


def picky():
    return echo_method(answerer=Picky())


def failing():
    raise ValueError("nothing to make")


def measured(function, **arguments):
    method = echo_method(recipe=(f"{__name__}:{function.__name__}", arguments))
    return peak_memory(method, [rows_of([3, 4])], CPU)


@pytest.mark.slow
def test_it_is_the_peak_of_that_process_alone():
    # Not the memory of this process.
    held = torch.ones(2 * MEGABYTES * 250_000)
    least, most = measured(modest), measured(greedy, kind="a")
    assert held.sum() > 0
    assert 50 < least < 2 * MEGABYTES + 600
    assert least + 0.8 * MEGABYTES < most < least + 1.5 * MEGABYTES


@pytest.mark.slow
def test_the_process_gets_the_same_rows():
    method = echo_method(recipe=(f"{__name__}:picky", {}))
    assert peak_memory(method, BATCHES, CPU) > 0
    with pytest.raises(RuntimeError, match="AssertionError"):
        peak_memory(method, [BATCHES[1], BATCHES[0]], CPU)


def test_without_a_recipe_it_is_unknown():
    assert peak_memory(echo_method(), [rows_of([3])], CPU) is None


@pytest.mark.medium
def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"(?s)the memory of 'echo, .*' failed: .*nothing to make"):
        measured(failing)
