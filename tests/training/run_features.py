# SPDX-License-Identifier: Apache-2.0
"""Run by test_features_killed.py and test_features_distributed.py, in processes of its own.

usage: [torchrun --nproc-per-node 2] -m tests.training.run_features killed|shared FOLDER

killed: leaves FOLDER/during and FOLDER/writing as killed runs leave them. shared: fills FOLDER from several processes;
each of them writes what it returned to FOLDER/rank-<number>.safetensors.
"""

import os
import signal
import sys
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from ..distributed import cases
from ..distributed.run_killed import kill
from . import feature_cases


# Of the 12 batches in 6 shards.
KILLED_IN_CALL = 6


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_during_a_call(folder):
    sidenets = feature_cases.model()
    calls = []
    sidenets.mainnet.register_forward_pre_hook(
        lambda *_: die() if len(calls) == KILLED_IN_CALL - 1 else calls.append(None)
    )
    feature_cases.cache(folder, sidenets=sidenets)


def killed_while_writing(folder):
    replace = os.replace
    os.replace = lambda source, target: die() if "shard-00002" in str(target) else replace(source, target)
    feature_cases.cache(folder)


def shared(folder):
    accelerator = Accelerator(cpu=True)
    sidenets = feature_cases.model()
    calls = []
    sidenets.mainnet.register_forward_pre_hook(lambda *_: calls.append(None))
    features = feature_cases.cache(folder / "features", sidenets=sidenets, accelerator=accelerator)
    tensors = {candidate.name: features.features(candidate) for candidate in features.candidates}
    tensors |= {"mainnet_logits": features.mainnet_logits, "labels": features.labels}
    first = len(calls)
    feature_cases.cache(folder / "features", sidenets=sidenets, accelerator=accelerator)
    found = {"first": str(first), "second": str(len(calls) - first), "processes": str(accelerator.num_processes)}
    save_file(tensors, folder / f"rank-{accelerator.process_index}.safetensors", metadata=found)


if __name__ == "__main__":
    what, root = sys.argv[1], Path(sys.argv[2])
    if what == "killed":
        kill(killed_during_a_call, root / "during")
        kill(killed_while_writing, root / "writing")
    else:
        cases.start_worker()
        shared(root)
        cases.end_worker()
