# SPDX-License-Identifier: Apache-2.0
"""A model of its own code, loaded before this package, runs every way: there are two copies of the gates."""

import json
import subprocess
import sys

import pytest
import torch

from tests.models.tiny import bert_with_sidenets


@pytest.mark.slow
def test_a_model_of_its_own_code_runs_every_way(tmp_path):
    torch.manual_seed(0)
    bert_with_sidenets().save_pretrained(tmp_path / "checkpoint")
    command = [sys.executable, "-m", "tests.inference.run_remote", tmp_path / "checkpoint", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == dict.fromkeys(found, True)
