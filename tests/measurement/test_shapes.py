# SPDX-License-Identifier: Apache-2.0
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from hf_sidenet.measurement.shapes import ShapeCount, count_shapes, typical_batches


class Weighing(nn.Linear):
    """2·8·4 FLOPs per row and token; says how often it ran."""

    def __init__(self):
        super().__init__(8, 4)
        self.runs = 0

    def forward(self, x, flag=None):
        self.runs += 1
        return super().forward(x)


def count(model, batches, num_timed=8):
    return count_shapes([model], batches, torch.device("cpu"), torch.float32, num_timed=num_timed, progress=False)


def lengths_of(batches):
    return [batch["x"].shape[1] for batch in batches]


def of_lengths(lengths, rows=2):
    return ({"x": torch.zeros(rows, length, 8), "labels": torch.zeros(rows)} for length in lengths)


@torch.no_grad()
def test_each_shape_runs_once_however_often_it_comes():
    model = Weighing()
    shapes = count(model, of_lengths([5, 3, 5, 5, 3, 9]))
    assert model.runs == 3
    assert [(shape.rows, shape.times) for shape in shapes] == [(2, 2), (2, 3), (2, 1)]
    assert [shape.flops for shape in shapes] == [[2 * 2 * n * 8 * 4] for n in (3, 5, 9)]
    assert all(shape.example.keys() == {"x"} for shape in shapes)


@torch.no_grad()
def test_rows_and_other_arguments_belong_to_the_shape():
    model = Weighing()
    x = torch.zeros(2, 3, 8)
    batches = [{"x": x}, {"x": x[:1]}, {"x": x, "flag": True}, {"x": x, "flag": False}, {"flag": True, "x": x}]
    assert sorted(shape.times for shape in count(model, batches)) == [1, 1, 1, 2]


@torch.no_grad()
def test_batches_without_rows_are_left_out():
    assert count(Weighing(), [{"x": torch.zeros(0, 3, 8)}, {}, {"labels": torch.zeros(3)}]) == []


@torch.no_grad()
def test_memory_is_bounded():
    """300 batches of 300 shapes pass by; at most 4 per timed batch are alive at any moment."""
    alive, most = weakref.WeakSet(), 0

    def batches():
        nonlocal most
        for batch in of_lengths(range(1, 301), rows=1):
            alive.add(batch["x"])
            yield batch
            del batch
            most = max(most, len(alive))

    shapes = count(Weighing(), batches(), num_timed=2)
    held = [shape for shape in shapes if shape.example is not None]
    assert len(shapes) == 300
    # And the one that has just come.
    assert most <= 4 * 2 + 1
    assert 3 <= len(held) <= 8
    chosen = lengths_of(typical_batches(shapes, 2))
    assert chosen[0] < 150 < chosen[1]


def shape_count(length, times, held=True):
    example = {"x": torch.zeros(1, length, 8)} if held else None
    return ShapeCount(rows=1, flops=[0, 64 * length], times=times, example=example)


@pytest.mark.parametrize(
    ("timed", "expected"),
    [
        # Sorted, the twelve are 1 1 1 1 1 1 2 2 2 3 3 9, and their mean is 2.25.
        (1, [2]),
        # 1 and 21 / 6 = 3.5.
        (2, [1, 3]),
        # 1, 6 / 4 = 1.5 (a tie goes to the cheaper) and 17 / 4 = 4.25.
        (3, [1, 1, 3]),
        # 1, 1, 2 and 15 / 3 = 5.
        (4, [1, 1, 2, 3]),
        (12, [1] * 6 + [2] * 3 + [3, 3, 9]),
        (50, [1] * 6 + [2] * 3 + [3, 3, 9]),
    ],
)
def test_timed_batches_by_hand(timed, expected):
    shapes = [shape_count(1, 6), shape_count(2, 3), shape_count(3, 2), shape_count(9, 1)]
    assert lengths_of(typical_batches(shapes, timed)) == expected


def test_the_nearest_example_stands_in_for_one_that_was_let_go():
    shapes = [shape_count(1, 1), shape_count(4, 1, held=False), shape_count(6, 1), shape_count(20, 1, held=False)]
    assert lengths_of(typical_batches(shapes, 4)) == [1, 6, 6, 6]


@torch.no_grad()
def test_their_mean_is_near_the_data_sets():
    """Lengths as skewed as those of sentences; 8 batches of 500."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(500, generator=generator) * 0.4 + 3).exp().int().clamp(2, 64).tolist()
    shapes = count(Weighing(), of_lengths(lengths, rows=1))
    chosen = lengths_of(typical_batches(shapes, 8))
    assert sum(chosen) / 8 == pytest.approx(sum(lengths) / 500, rel=0.02)


@torch.no_grad()
def test_every_call_is_counted():
    model = Weighing()
    calls = [partial(model, flag=True), lambda x: model(model(x).repeat(1, 1, 2))]
    (shape,) = count_shapes(calls, of_lengths([3]), torch.device("cpu"), torch.float32, num_timed=1, progress=False)
    assert shape.flops == [384, 768]
