# SPDX-License-Identifier: Apache-2.0
"""Run by test_fsdp.py in two processes: train under FSDP 1 and 2, evaluate with exits on, save.

usage: torchrun --nproc-per-node 2 -m tests.distributed.run_fsdp FOLDER

FOLDER/<case>.rows.safetensors holds the evaluation rows and θ. Writes FOLDER/<case>-<version>/, a checkpoint, and
FOLDER/<case>-<version>.safetensors.
"""

import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hf_sidenet.models.gate import has_sharded_parameters
from hf_sidenet.training import SameStatisticsCallback

from . import cases


def fsdp_arguments(folder, name, version):
    settings = {"version": version, "transformer_layer_cls_to_wrap": [cases.BLOCKS[name], "SideNet"]}
    if version == 1:
        # Copying rank 0's weights to the others asks for an accelerator.
        settings["sync_module_states"] = False
    return cases.arguments(
        folder, fsdp="full_shard auto_wrap", fsdp_config=settings, eval_strategy="steps", eval_steps=2
    )


def trainer_on_cpu(model, name, args, **kwargs):
    """Accelerate leaves FSDP out where the processes have no accelerator: tell it that they have."""
    assert args.device.type == "cpu"
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    trainer = cases.make_trainer(model, name, args, **kwargs)
    assert trainer.is_fsdp_enabled
    # FSDP 1 compares it with "cpu".
    AcceleratorState._shared_state["device"] = torch.device("cpu")
    return trainer


class CountParameters(TrainerCallback):
    """How many this rank holds before the first forward."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.here = sum(getattr(parameter, "_local_tensor", parameter).numel() for parameter in model.parameters())


def run(folder, name, version):
    loaded = load_file(folder / f"{name}.rows.safetensors")
    thresholds = loaded.pop("thresholds").tolist()
    data = [dict(zip(loaded, row, strict=True)) for row in zip(*loaded.values(), strict=True)]
    count = CountParameters()
    trainer = trainer_on_cpu(
        cases.build(name, thresholds=thresholds),
        name,
        fsdp_arguments(folder / "out", name, version),
        callbacks=[SameStatisticsCallback(), count],
        eval_dataset=data,
    )
    trainer.train()
    assert has_sharded_parameters(trainer.model)
    prediction = trainer.predict(data)
    trainer.save_model(folder / f"{name}-{version}")
    if torch.distributed.get_rank() == 0:
        names = ("logits", "exit_index", "exit_logits")
        tensors = dict(zip(names, map(torch.from_numpy, prediction.predictions), strict=True))
        tensors |= {"losses": torch.tensor(cases.logged(trainer)), "numel": torch.tensor(count.here)}
        save_file(tensors, folder / f"{name}-{version}.safetensors")


if __name__ == "__main__":
    cases.start_worker()
    for case, fsdp_version in cases.SHARDED:
        run(Path(sys.argv[1]), case, fsdp_version)
    cases.end_worker()
