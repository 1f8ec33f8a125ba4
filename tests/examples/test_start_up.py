# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from .commands import ROOT


@pytest.mark.slow
def test_a_line_with_both_numbers_for_every_start():
    command = [sys.executable, "examples/benchmarks/start_up.py", "--runs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["seconds", "peak", "MB"]
    memory = {line.rsplit(maxsplit=2)[0].strip(): float(line.split()[-1]) for line in lines}
    assert len(memory) == 7
    # What imports torch shows it.
    assert memory["hf-sidenet --help"] < memory.popitem()[1] / 4
