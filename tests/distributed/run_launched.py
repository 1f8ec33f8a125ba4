# SPDX-License-Identifier: Apache-2.0
"""Run by test_launch_configs.py under `accelerate launch`: a script of the examples, as it is.

usage: accelerate launch ... -m tests.distributed.run_launched FOLDER SCRIPT ARGUMENTS

When its Trainer has trained, the first process writes FOLDER/exits_on.safetensors, what the model then answers to the
evaluation rows with exits on, and FOLDER/about.json.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from transformers import Trainer

from hf_sidenet.models.gate import has_sharded_parameters
from hf_sidenet.models.tasks import SINGLE_LABEL

from . import cases


def shard_on_cpu():
    """Accelerate leaves FSDP out where the processes have no accelerator: tell it that they have."""
    start = AcceleratorState.__init__

    def started(self, *args, **kwargs):
        PartialState(cpu=True)
        if AcceleratorState._shared_state == {}:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        start(self, *args, **kwargs)

    AcceleratorState.__init__ = started


def between_rows(exit_logits):
    """A θ at which many rows leave at the first SideNet and many stay, and that is near to none of them."""
    sure = SINGLE_LABEL.confidence(exit_logits)[:, 0].sort().values
    first, last = len(sure) // 4, 3 * len(sure) // 4
    place = first + sure[first:last].diff().argmax().item()
    return sure[place : place + 2].mean().item()


def evaluate_when_trained(folder):
    train = Trainer.train

    def trained(self, *args, **kwargs):
        done = train(self, *args, **kwargs)
        sharded = has_sharded_parameters(self.model)
        # The script's metrics are for exits off.
        metrics, self.compute_metrics = self.compute_metrics, None
        theta = between_rows(torch.from_numpy(self.predict(self.eval_dataset).predictions[2]))
        self.model.config.thresholds = theta
        prediction = self.predict(self.eval_dataset)
        self.model.config.thresholds, self.compute_metrics = 1.0, metrics
        about = {"processes": torch.distributed.get_world_size(), "sharded": sharded, "losses": cases.logged(self)}
        about["theta"] = theta
        if self.is_world_process_zero():
            tensors = zip(("logits", "exit_index"), map(torch.from_numpy, prediction.predictions[:2]), strict=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors}, folder / "exits_on.safetensors")
            (folder / "about.json").write_text(json.dumps(about))
        return done

    Trainer.train = trained


if __name__ == "__main__":
    cases.start_worker()
    _, root, script, *arguments = sys.argv
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    evaluate_when_trained(Path(root))
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
    cases.end_worker()
