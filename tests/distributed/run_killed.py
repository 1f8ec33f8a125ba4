# SPDX-License-Identifier: Apache-2.0
"""Run by test_resume.py: start training runs that are killed between two checkpoints.

usage: python -m tests.distributed.run_killed FOLDER

Leaves FOLDER/<run>/ as a killed run leaves it.
"""

import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback

from . import cases, loop


# Checkpoints after 4 and 8 batches; an epoch has 10, the whole run of the Trainer 14.
SAVED, KILLED = 8, 9


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)


def save_and_kill(folder):
    def on_step(done, accelerator):
        if done == SAVED:
            accelerator.save_state(folder)
        if done == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def make_trainer(name, folder, callbacks=None):
    args = cases.arguments(folder, max_steps=14, save_strategy="steps", save_steps=4, optim="adamw_torch")
    return cases.make_trainer(cases.build(name, dropout=0.1), name, args, callbacks=callbacks)


def kill(run, *args, **kwargs):
    """In a process of its own, forked: torch is imported once for all of them."""
    child = os.fork()
    if child == 0:
        try:
            cases.start_worker()
            run(*args, **kwargs)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    assert os.WTERMSIG(status) == signal.SIGKILL, status


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for case in ("frozen", "joint"):
        kill(lambda name: make_trainer(name, root / name, [Kill()]).train(), case)
    kill(loop.train, cases.build("joint", dropout=0.1), cases.rows("joint", 40), on_step=save_and_kill(root / "loop"))
