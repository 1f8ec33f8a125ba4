# SPDX-License-Identifier: Apache-2.0
"""What a benchmark requires of its methods and its caller."""

from dataclasses import replace

import pytest

from hf_sidenet.benchmark import run as module
from hf_sidenet.benchmark import run_benchmark
from hf_sidenet.benchmark.rows import cut

from .cases import Echo, echo_method, rows_of


@pytest.mark.medium
def test_methods_are_made_once_per_batch_size_with_a_sample_of_their_own_order():
    made = []

    def make(batch_size, batches):
        made.append((batch_size, [[row.length for row in batch] for batch in batches], batches[0][0].thresholds))
        return Echo()

    lengths = [5, 4, 3, 2, 1] * 40
    method = echo_method(bucketed=True, thresholds=(0.5,))
    object.__setattr__(method, "make", make)
    found = run_benchmark([method], rows_of(lengths), [1] * 200, batch_sizes=(2, 100), repeats=1, progress=False)
    assert [each[0] for each in made] == [2, 100]
    assert made[0][2] == (0.5,)
    # At batch size 2 about 64 rows, from everywhere; at 100 both batches.
    assert len(made[0][1]) == 32
    assert {length for batch in made[0][1] for length in batch} == {1, 2, 3, 4, 5}
    assert [len(batch) for batch in made[1][1]] == [100, 100]
    assert found.sizes[0].methods[0].accuracy == 1.0


@pytest.mark.medium
def test_at_small_batch_sizes_the_first_rows_are_taken():
    found = run_benchmark(
        [echo_method()], rows_of([3] * 30), [0] * 30, batch_sizes=(1, 8), repeats=1, max_batches=10, progress=False
    )
    assert [(size.batch_size, size.num_rows) for size in found.sizes] == [(1, 10), (8, 30)]
    assert found.sizes[0].methods[0].accuracy == 0.0
    assert found.settings["num_threads"] >= 1
    assert found.settings["memory_batch_size"] is None


@pytest.mark.medium
def test_memory_is_measured_at_one_batch_size(monkeypatch):
    monkeypatch.setattr(module, "peak_memory", lambda method, batches, device: 10.0 * max(map(len, batches)))
    found = run_benchmark(
        [echo_method()], rows_of([3] * 70), [0] * 70, batch_sizes=(1, 32, 64), repeats=1, memory=True, progress=False
    )
    assert [size.methods[0].memory_mb for size in found.sizes] == [None, 320.0, None]
    found = run_benchmark(
        [echo_method()], rows_of([3] * 70), [0] * 70, batch_sizes=(1, 64), repeats=1, memory=True, progress=False
    )
    assert [size.methods[0].memory_mb for size in found.sizes] == [None, 640.0]
    assert found.settings["memory_batch_size"] == 64


def tokens(batch):
    return len(batch) * max(row.length for row in batch)


@pytest.mark.medium
@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("longest", [0, 1111, 1599])
def test_memory_is_measured_on_the_batch_with_the_most_padded_tokens(monkeypatch, bucketed, longest):
    seen = []
    monkeypatch.setattr(module, "peak_memory", lambda method, batches, device: seen.append(batches))
    rows = rows_of([3] * 1600)
    rows[longest].length = 9
    # Longer, but in mixed order alone in a batch.
    rows += [replace(rows[1], place=1600, length=10)]
    run_benchmark(
        [echo_method(bucketed=bucketed)], rows, [0] * 1601, batch_sizes=(32,), repeats=1, memory=True, progress=False
    )
    (batches,) = seen
    assert len(batches) <= 3
    assert max(map(tokens, batches)) == max(map(tokens, cut(rows, 32).of(bucketed))) > 32 * 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"repeats": 0}, "`repeats` must be ≥ 1, got 0"),
        ({"max_batches": 0}, "`max_batches` must be ≥ 1, got 0"),
        ({"max_accuracy_drop": float("nan")}, r"`max_accuracy_drop` must be in \[0, 1\], got nan"),
        ({"max_accuracy_drop": -0.1}, r"`max_accuracy_drop` must be in \[0, 1\], got -0.1"),
        ({"max_accuracy_drop": 1.1}, r"`max_accuracy_drop` must be in \[0, 1\], got 1.1"),
        ({"batch_sizes": ()}, r"`batch_sizes` must be distinct integers ≥ 1, got \[\]"),
        ({"batch_sizes": (8, 8)}, r"`batch_sizes` must be .* got \[8, 8\]"),
        ({"batch_sizes": (0,)}, r"`batch_sizes` must be .* got \[0\]"),
        ({"labels": [0]}, "`labels` must be as many as rows, 3, got 1"),
        ({"rows": []}, "`rows` must be at least one"),
        ({"rows": rows_of([1, 2, 3])[1:]}, "with `place` 0, 1, 2, ..., got 2 with other places"),
    ],
)
def test_impossible_arguments(kwargs, message):
    arguments = {"rows": rows_of([1, 2, 3]), "labels": [0, 0, 0], **kwargs}
    with pytest.raises(ValueError, match=message):
        run_benchmark([echo_method()], **arguments, progress=False)
