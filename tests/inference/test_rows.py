# SPDX-License-Identifier: Apache-2.0
"""Which rows stand for all."""

import pytest

from hf_sidenet.inference.rows import evenly_spaced


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (10, 5, [0, 2, 4, 6, 8]),
        (7, 4, [0, 1, 3, 5]),
        (5, 4, [0, 1, 2, 3]),
        (4, 4, [0, 1, 2, 3]),
        (3, 4, [0, 1, 2]),
        (1, 64, [0]),
        (0, 4, []),
    ],
)
def test_evenly_spaced(total, count, expected):
    assert evenly_spaced(total, count) == expected


@pytest.mark.parametrize("total", [96, 512, 600, 1023, 1024, 5000])
def test_no_part_is_left_out(total):
    for count in (64, 512):
        found = evenly_spaced(total, count)
        assert len(set(found)) == len(found) == min(count, total)
        steps = [b - a for a, b in zip(found, [*found[1:], total], strict=True)]
        assert max(steps) - min(steps) <= 1
