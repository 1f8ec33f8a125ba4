# SPDX-License-Identifier: Apache-2.0
"""The sweep over all architectures, and the page made from it, as a user runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.medium


ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_is_exact_and_what_is_refused(tmp_path):
    text, page = tmp_path / "text.json", tmp_path / "mainnets.md"
    said = run("examples/mainnets/sweep.py", "text", "--only", "bert", "bart", "big_bird", "--output", text)
    assert said.splitlines()[-1] == "2 exact, 1 refused"
    found = {one["name"]: one for one in json.loads(text.read_text())["mainnets"]}
    assert found["bert"]["stages"] == "yes"
    assert found["bert"]["blocks"] == 4
    assert "also needs what model.encoder.layers.3 returned" in found["bart"]["stages"]
    # Rows left at all three SideNets, and some reached the end.
    assert all(len(left) == 4 for left in found["bart"]["batches"].values())
    run("examples/mainnets/page.py", text, page)
    written = page.read_text()
    assert "3: 2 exact, 1 refused." in written
    assert written.index("| bert |") < written.index("| bart |")
    assert "| big_bird | BigBirdForSequenceClassification changes itself on some inputs" in written


def test_the_readme_says_what_the_page_says():
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/mainnets.md", "README.md"))
    counts = re.findall(r"^(\d+): (\d+) exact", page, flags=re.MULTILINE)
    (texts, exact_texts), (images, exact_images), (families, exact_families), (networks, exact_networks) = counts
    assert f"{exact_texts} of {texts} text architectures of transformers, {exact_images} of {images}" in readme
    assert f"all {exact_families} families of timm that were tried" in readme
    assert exact_families == families
    assert f"all {exact_networks} classifiers of torchvision up to 90 M parameters" in readme
    assert exact_networks == networks
    assert all(len(re.findall(rf"^\| {name} \|", page, flags=re.MULTILINE)) == 1 for name in ("bert", "swin", "bart"))


def test_wrong_answers_are_no_page(tmp_path):
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"kind": "text", "mainnets": [{"name": "bert", "outcome": "wrong"}]}))
    command = [sys.executable, "examples/mainnets/page.py", text, tmp_path / "page.md"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "wrong answers, to be mended first: ['bert']" in done.stderr
    assert not (tmp_path / "page.md").exists()
