# SPDX-License-Identifier: Apache-2.0
"""`make test-fast`, `make test` and `make test-all` exist, and each runs more than the one before."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
MARKERS = ("medium", "slow", "distributed")
# By itself, so that nothing else has to be imported and collected.
SAMPLE = "import pytest\n\ndef test_quick(): pass\n" + "".join(
    f"\n@pytest.mark.{marker}\ndef test_{marker}(): pass\n" for marker in MARKERS
)


@pytest.fixture
def ran(tmp_path):
    """What a target of the Makefile runs of the sample."""

    def run(target):
        recipe = subprocess.run(
            ["make", "--dry-run", "--always-make", target], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        (command,) = [line for line in recipe.splitlines() if " -m pytest" in line]
        arguments = shlex.split(command.partition(" -m pytest")[2])
        (tmp_path / "test_sample.py").write_text(SAMPLE)
        arguments += [f"--config-file={ROOT / 'pyproject.toml'}", "--numprocesses=0", "--verbose", tmp_path]
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"::test_(\w+) PASSED", done.stdout)

    return run


@pytest.mark.medium
def test_each_tier_runs_more(ran):
    assert ran("test-fast") == ["quick"]
    assert ran("test") == ["quick", "medium"]
    assert ran("test-all") == ["quick", *MARKERS]


@pytest.mark.parametrize("marker", MARKERS)
def test_every_marker_is_used(marker):
    others = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(f"pytest.mark.{marker}" in text for text in others)
    assert any("pytest.mark." not in text for text in others)


def test_ci_runs_everything():
    assert "step make test-all\n" in (ROOT / ".ci/run").read_text()
    assert "run: make test-all\n" in (ROOT / ".github/workflows/ci.yml").read_text()
