# SPDX-License-Identifier: Apache-2.0
"""Start a script of this folder in processes of its own, and never leave one behind."""

import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]


def launch(script, folder, processes=2, timeout=900):
    """Run `tests.distributed.<script>` with `folder` as its argument; more than one process under torchrun.

    Raises:
        AssertionError: a process failed or hangs; the message ends with what they wrote.
    """
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(torchrun if processes > 1 else []), f"tests.distributed.{script}", str(folder)]
    # A Trainer that ran in this process leaves its settings in the environment.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SIDENET_TEST_TIMEOUT": str(timeout - 15)}
    log = Path(folder) / f"{script}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            ended = f"ended with code {process.wait(timeout)}"
        except subprocess.TimeoutExpired:
            ended = f"still ran after {timeout} s"
        finally:
            stop(process)
    # What follows the first failure is torchrun's own report.
    wrote = log.read_text().partition("elastic/multiprocessing/api.py")[0]
    assert process.returncode == 0, f"{' '.join(command)} {ended}:\n{wrote[-8000:]}"


def stop(process):
    """torchrun ends its workers when it is asked to end."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
