# SPDX-License-Identifier: Apache-2.0
"""Start run_features.py in processes of its own."""

import os
import subprocess
import sys

from ..distributed.launch import ROOT, stop


TIMEOUT = 900


def launch(what, folder, processes=1):
    """Run `tests.training.run_features`; more than one process under torchrun.

    Raises:
        AssertionError: a process failed or hangs; the message ends with what they wrote.
    """
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    script = [*(torchrun if processes > 1 else []), "tests.training.run_features"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SIDENET_TEST_TIMEOUT": str(TIMEOUT - 15)}
    log = folder / f"{what}.log"
    with open(log, "w") as file:
        command = [sys.executable, "-m", *script, what, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(TIMEOUT)
        finally:
            stop(process)
    assert process.returncode == 0, log.read_text()[-8000:]
