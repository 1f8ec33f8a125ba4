# SPDX-License-Identifier: Apache-2.0
"""The guarantee holds where the naive choice does not: the script of examples/calibration, with fewer runs."""

import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.medium


SCRIPT = Path(__file__).parents[2] / "examples" / "calibration" / "guarantee.py"
RUNS = 30


@pytest.fixture(scope="module")
def guarantee():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import guarantee
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return guarantee


@pytest.mark.slow
def test_a_gain_that_is_not_there_is_rarely_certified(guarantee):
    """SideNets that correct exactly as many errors as they make: no point gains anything."""
    from hf_sidenet.calibration import parse_targets

    pool = guarantee.synthetic_pool(8_000, 0.0, seed=3, mended=1.0)
    outcomes = guarantee.try_pool(
        "pool", pool, parse_targets("accuracy_drop<=0")[0], runs=60, rows=1000, tests=("paired",)
    )
    assert outcomes[0].violations <= guarantee.allowed(60)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["accuracy_drop<=0.01", "selective_error<=0.1", "disagreement<=0.03"])
@pytest.mark.parametrize(("confident_errors", "mended"), [(0.0, 1.0), (0.005, 1.0)])
def test_violations_are_rare_and_the_control_fails(guarantee, target, confident_errors, mended):
    from hf_sidenet.calibration import parse_targets

    pool = guarantee.synthetic_pool(8_000, confident_errors, seed=3, mended=mended)
    tests = ("paired", "binomial") if target.startswith("accuracy") else ("binomial",)
    parsed = parse_targets(target)[0]
    outcomes = guarantee.try_pool("pool", pool, parsed, runs=RUNS, rows=1000, tests=tests)
    naive = outcomes[-1]
    assert naive.method == "naive"
    for outcome in outcomes[:-1]:
        assert outcome.violations <= guarantee.allowed(RUNS)
        assert outcome.median_cost >= naive.median_cost
    # The default test; the others are less sharp.
    assert outcomes[0].median_cost <= outcomes[0].oracle_cost + 0.15
    if naive.oracle_cost < 1:
        assert naive.violations > guarantee.allowed(RUNS)


def test_rows_that_repeat_certify_too(guarantee):
    """One text is a part of all rows, and of the design rows: were it left out, the guarantee would be false."""
    from hf_sidenet.calibration import parse_targets

    pool, repeated = guarantee.repeating_pool(6_000, 0.08, seed=3)
    (target,) = parse_targets("accuracy_drop<=0.01")
    outcomes = guarantee.try_pool("pool", pool, target, runs=20, rows=1000, tests=("paired",), repeated=repeated)
    found = {outcome.method: outcome.violations for outcome in outcomes}
    assert found["paired"] <= guarantee.allowed(20)
    assert found[guarantee.KNOWN_LEFT_OUT] == 20


def test_at_most_33_of_500(guarantee):
    assert guarantee.allowed(500) == 33


def test_the_script_says_what_to_give():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "--runs" in done.stdout
