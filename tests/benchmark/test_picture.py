# SPDX-License-Identifier: Apache-2.0
"""The figure, from made-up measurements."""

from hf_sidenet.benchmark.methods import PLAIN_MAINNET, RUNNER
from hf_sidenet.benchmark.picture import plot_benchmark, styles_of

from .cases import result, size


def test_the_picture_draws_what_there_is(tmp_path):
    """Another kind of method, one batch size, no efficiency."""
    plot_benchmark([size(8, result(), result("earlyon", "rival", 90.0))], tmp_path / "one.png", "a title")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_every_kind_of_method_looks_different():
    kinds = [PLAIN_MAINNET, RUNNER, "truncated MainNet", "cascade", "earlyon's backbone", "earlyon"]
    looks = [tuple(sorted((name, str(value)) for name, value in styles_of(kinds)[kind].items())) for kind in kinds]
    assert len(set(looks)) == len(kinds)
