# SPDX-License-Identifier: Apache-2.0
"""The verdict, from made-up measurements."""

from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.benchmark.measures import with_best_ratios
from hf_sidenet.benchmark.methods import OURS, RIVAL, RUNNER
from hf_sidenet.benchmark.verdict import MARGIN, accurate, verdict_of

from .cases import result, size


def ours(speed, ratio, **kwargs):
    return result(RUNNER, OURS, speed, ratio=ratio, twin=result().name, **{"accuracy": 0.895, **kwargs})


def test_worth_it():
    sizes = [size(8, result(speed=200), ours(150, 0.75)), size(32, result(speed=100), ours(250, 2.5))]
    found = verdict_of(sizes, 0.01)
    assert found.worth
    assert found.text == (
        "worth it here: runner, float32, eager, by length at batch size 32 answers 2.50× its twin and 1.25× the "
        "fastest plain MainNet (plain MainNet, float32, eager, by length at batch size 8), at accuracy 89.5 % against "
        "90.0 %"
    )
    assert [each.worth for each in found.sizes] == [False, True]
    assert found.sizes[0].text.startswith("batch size 8: do not use here: nothing of ours is more than 5 % faster")
    assert found.left_out == {}


def test_a_faster_rival_is_named():
    rival = result("cascade", RIVAL, 500, ratio=5.0, accuracy=0.891)
    slower, wrong = result("slow", RIVAL, 240, ratio=2.4), result("SideNet 0 alone", RIVAL, 900, accuracy=0.8)
    found = verdict_of([size(32, result(speed=100), rival, slower, wrong, ours(250, 2.5))], 0.01)
    assert found.worth
    assert found.text.endswith(
        "at accuracy 89.5 % against 90.0 %; a rival is 2.00× as fast as that: cascade, float32, eager, by length at "
        "batch size 32, 89.1 %"
    )
    assert "rival" not in verdict_of([size(32, result(), slower, wrong, ours(250, 2.5))], 0.01).text


def test_do_not_use_where_plain_at_its_best_batch_size_is_faster():
    sizes = [size(8, result(speed=300), ours(310, 1.03)), size(32, result(speed=100), ours(250, 2.5))]
    found = verdict_of(sizes, 0.01)
    assert not found.worth
    assert found.text == (
        "do not use here: nothing of ours is more than 5 % faster than both its twin and the fastest plain MainNet "
        "(plain MainNet, float32, eager, by length at batch size 8, 300 rows/s). The fastest of ours, runner, "
        "float32, eager, by length at batch size 8, answers 1.03× its twin and 1.03× the fastest plain MainNet, at "
        "accuracy 89.5 % against 90.0 %"
    )
    # At batch size 32 alone it is.
    assert [each.worth for each in found.sizes] == [False, True]


def test_do_not_use_where_the_twin_is_faster():
    """A SideNet in bfloat16 beats plain float32, but not plain bfloat16."""
    half = result(speed=400, precision="bfloat16")
    mine = result(RUNNER, OURS, 390, precision="bfloat16", ratio=390 / 400, twin=half.name)
    found = verdict_of([size(8, result(speed=100), half, mine)], 0.01)
    assert not found.worth
    assert "0.97× its twin" in found.text
    # Even if the twin itself is too inaccurate to count.
    half = result(speed=400, precision="int8", accuracy=0.5)
    mine = result(RUNNER, OURS, 390, precision="int8", ratio=390 / 400, twin=half.name)
    assert not verdict_of([size(8, result(speed=100), half, mine)], 0.01).worth


def test_what_is_not_accurate_enough_does_not_count():
    wrong = ours(900, 9.0, precision="int8", accuracy=0.88)
    quick = result(speed=5000, precision="int8", accuracy=0.85)
    sizes = [size(8, result(), quick, ours(200, 2.0), wrong)]
    found = verdict_of(sizes, 0.01)
    assert found.worth
    assert "answers 2.00× its twin" in found.text
    assert found.left_out == {quick.name: [8], wrong.name: [8]}
    # One percent exactly is allowed.
    assert result(accuracy=0.89) in accurate(size(8, result(), result(accuracy=0.89)), 0.01)
    loose = verdict_of(sizes, 0.05)
    assert loose.left_out == {}
    assert not loose.worth


def test_no_verdict_without_something_to_compare():
    found = verdict_of([size(8, ours(100, None))], 0.01)
    assert (found.worth, found.text) == (None, "no verdict: no plain MainNet was measured")
    found = verdict_of([size(8, result(), ours(100, 2.0, accuracy=0.5))], 0.01)
    assert found.worth is None
    assert found.text == "no verdict: nothing of ours with a twin was accurate enough"
    assert verdict_of([size(8, result(), result("cascade", RIVAL, 900, ratio=9.0))], 0.01).worth is None


SPEEDS = st.floats(1, 1000)


@given(st.lists(st.tuples(SPEEDS, SPEEDS, st.sampled_from([0.9, 0.895, 0.8])), min_size=1, max_size=4))
def test_worth_it_means_faster_than_everything_plain(speeds):
    sizes = with_best_ratios(
        [size(2**i, result(speed=p), ours(o, o / p, accuracy=a)) for i, (p, o, a) in enumerate(speeds)]
    )
    found = verdict_of(sizes, 0.01)
    fastest = max(plain for plain, _, _ in speeds)
    expected = any(o / p > MARGIN and o > MARGIN * fastest and a > 0.85 for p, o, a in speeds)
    assert bool(found.worth) == expected
    assert (found.worth is None) == all(a < 0.85 for _, _, a in speeds)
    assert len(found.sizes) == len(sizes)
    # The overall winner also wins at its own batch size.
    assert not found.worth or any(each.worth for each in found.sizes)
