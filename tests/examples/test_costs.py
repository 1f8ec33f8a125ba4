# SPDX-License-Identifier: Apache-2.0
"""The table of the paper's exits, as a user prints it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.medium


ROOT = Path(__file__).parents[2]


def test_resnet_18_after_stage_1():
    command = [sys.executable, "examples/costs/print_costs.py", "--models", "resnet-18", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    header, _, row, *_ = done.stdout.splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert row.startswith("| resnet-18 | 1 of 4 | 25.0% | ")
    assert (cells["parameters"], cells["FLOPs"]) == ("1.4%", "32.0%")
    # 64·32 + 32 for the first layer, 2·32 for the BatchNorm, 32·10 + 10 for the second, of 11,181,642.
    assert row.endswith(" | 0.022% |")
    assert "Command: `python examples/costs/print_costs.py --models resnet-18 --repeats 1`." in done.stdout
