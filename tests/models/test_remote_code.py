# SPDX-License-Identifier: Apache-2.0
"""A checkpoint loads where hf_sidenet is not installed, and answers like the plain MainNet run in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_sidenet.models

from .collect import all_testers


pytestmark = pytest.mark.medium


TESTERS = all_testers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every first MainNet saved here, loaded and run by another process."""
    root = tmp_path_factory.mktemp("remote")
    for kind in TESTERS:
        torch.manual_seed(0)
        tester = kind()
        model, inputs = tester.model(), tester.inputs(5)
        thresholds = tester.middle(model, inputs)
        here = root / kind.__name__
        model.save_pretrained(here / "checkpoint")
        model.mainnet.save_pretrained(here / "plain")
        save_file({**inputs, "thresholds": torch.tensor(thresholds, dtype=torch.float64)}, here / "inputs.safetensors")
        with torch.no_grad():
            expected = {}
            for key, theta in (("off", 1.0), ("on", thresholds), ("all", 0.0)):
                output = model(**inputs, thresholds=theta)
                expected[f"{key}.logits"], expected[f"{key}.exit_index"] = output.logits, output.exit_index
        save_file(expected, here / "expected.safetensors")
    script = Path(__file__).with_name("load_without_package.py")
    env = {**os.environ, "HF_HOME": str(root.parent / "hf_home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(script), str(root)], check=True, env=env)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", TESTERS, ids=lambda kind: kind.__name__)
def test_same_answers_in_a_process_without_the_package(folder, kind):
    expected = load_file(folder / kind.__name__ / "expected.safetensors")
    outputs = load_file(folder / kind.__name__ / "outputs.safetensors")
    compared = 0
    for name, value in outputs.items():
        key = name.partition(".")[2]
        if key in expected:
            assert torch.equal(value, expected[key]), name
            compared += 1
    assert compared == 12


@pytest.mark.parametrize("kind", TESTERS, ids=lambda kind: kind.__name__)
def test_the_plain_mainnet_in_another_process(folder, kind):
    expected = load_file(folder / kind.__name__ / "expected.safetensors")
    # Loaded from the MainNet's own checkpoint.
    outputs = load_file(folder / kind.__name__ / "outputs.safetensors")
    assert torch.equal(outputs["plain"], expected["off.logits"])


@pytest.mark.parametrize("kind", TESTERS, ids=lambda kind: kind.__name__)
def test_saved_again_after_fine_tuning(folder, kind):
    outputs = load_file(folder / kind.__name__ / "outputs.safetensors")
    assert torch.equal(outputs["again"], outputs["tuned"])
    assert not torch.equal(outputs["again"], outputs[next(n for n in outputs if n.endswith("all.logits"))])
    first, again = (folder / kind.__name__ / name for name in ("checkpoint", "again"))
    configs = [json.loads((path / "config.json").read_text()) for path in (first, again)]
    assert configs[0]["auto_map"] == configs[1]["auto_map"]
    assert sorted(p.name for p in first.glob("*.py")) == sorted(p.name for p in again.glob("*.py"))


def test_the_folder_that_travels_is_flat_and_complete(folder):
    package = Path(hf_sidenet.models.__file__).parent
    traveling = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    checkpoint = folder / "TestBert" / "checkpoint"
    assert {path.name for path in checkpoint.glob("*.py")} == traveling
    assert {path.name for path in checkpoint.iterdir()} == traveling | {"config.json", "model.safetensors"}
    auto_map = json.loads((checkpoint / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_sidenet.SideNetConfig",
        "AutoModel": "modeling_sidenet.BertWithSideNetForSequenceClassification",
        "AutoModelForSequenceClassification": "modeling_sidenet.BertWithSideNetForSequenceClassification",
    }
