# SPDX-License-Identifier: Apache-2.0
"""The figure, from made-up measurements."""

from hf_sidenet.benchmark.methods import PLAIN_MAINNET, RUNNER
from hf_sidenet.benchmark.picture import drawn_kinds, plot_benchmark, styles_of

from .cases import result, size


def test_the_picture_draws_what_there_is(tmp_path):
    """Another kind of method, one batch size, no efficiency."""
    plot_benchmark([size(8, result(), result("earlyon", "rival", 90.0))], tmp_path / "one.png", "a title", 0.01)
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_rivals_that_answer_too_much_wrongly_are_left_out():
    sizes = [
        size(8, result(), result(RUNNER, "ours", accuracy=0.1), result("a bag", "rival", accuracy=0.1)),
        size(32, result(), result("a bag", "rival", accuracy=0.1), result("cascade", "rival")),
    ]
    assert drawn_kinds(sizes, 0.01) == [PLAIN_MAINNET, RUNNER, "cascade"]
    assert drawn_kinds(sizes, 1.0) == [PLAIN_MAINNET, RUNNER, "a bag", "cascade"]


def test_every_kind_of_method_looks_different():
    kinds = [PLAIN_MAINNET, RUNNER, "truncated MainNet", "cascade", "earlyon's backbone", "earlyon"]
    looks = [tuple(sorted((name, str(value)) for name, value in styles_of(kinds)[kind].items())) for kind in kinds]
    assert len(set(looks)) == len(kinds)
