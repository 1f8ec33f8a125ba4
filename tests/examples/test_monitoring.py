# SPDX-License-Identifier: Apache-2.0
"""The table of the page about watching, in small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "examples/monitoring/simulate.py"


@pytest.mark.medium
def test_simulated_alarms():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--runs", "2", "--limit", "0.05"], capture_output=True, text=True, check=True
    )
    rows = re.findall(r"^\| (\d+\.\d)% \| (\d+|more than 20000) \| ", done.stdout, flags=re.MULTILINE)
    assert [rate for rate, _ in rows] == ["6.2", "7.5", "10.0", "15.0", "25.0"]
    # The larger the change, the earlier it is seen.
    assert 0 < int(rows[-1][1]) < int(rows[-2][1]) < 1500
    assert "rate 2.5% for 20000 rows: 0 runs with a false alarm" in done.stdout
