# SPDX-License-Identifier: Apache-2.0
"""Run by test_ddp.py in two processes: every case trained and evaluated under DDP.

usage: torchrun --nproc-per-node 2 -m tests.distributed.run_ddp FOLDER

Rank 0 writes FOLDER/<what>.safetensors and FOLDER/<what>.json.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_sidenet import compute_exit_metrics
from hf_sidenet.training import SameStatisticsCallback

from . import cases, loop


def write(folder, name, tensors, values=None):
    if torch.distributed.get_rank() == 0:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(values or {}))


def predictions(trainer, data):
    prediction = trainer.predict(data)
    names = ("logits", "exit_index", "exit_logits")
    tensors = dict(zip(names, map(torch.from_numpy, prediction.predictions), strict=True))
    return {**tensors, "labels": torch.from_numpy(prediction.label_ids)}, prediction.metrics


def train_every_case(folder):
    # By default the Trainer looks for parameters without a gradient; there are none, so it may be told not to.
    for name in cases.CASES:
        for kind, settings in (("", {}), ("-all-used", {"ddp_find_unused_parameters": False})):
            trainer = cases.make_trainer(cases.build(name), name, cases.arguments(folder / "out", **settings))
            trainer.train()
            tensors = {f"weights.{key}": value for key, value in trainer.model.state_dict().items()}
            write(folder, name + kind, {**tensors, "losses": torch.tensor(cases.logged(trainer))})


def evaluate_with_exits_off_and_on(folder):
    data = cases.rows("several", 37, seed=1)
    for kind, metrics in (("off", compute_exit_metrics()), ("on", cases.routed_accuracy)):
        model = cases.build("several", thresholds=1.0 if kind == "off" else cases.MIDDLE)
        trainer = cases.make_trainer(model, "several", cases.arguments(folder / "out"), compute_metrics=metrics)
        write(folder, f"predict-{kind}", *predictions(trainer, data))


def evaluate_after_training(folder):
    for kind, callbacks in (("own", []), ("same", [SameStatisticsCallback()])):
        trainer = cases.make_trainer(
            cases.build("joint"), "joint", cases.arguments(folder / "out"), callbacks=callbacks
        )
        trainer.train()
        trainer.save_model(folder / f"trained-{kind}")
        write(folder, f"trained-{kind}", predictions(trainer, cases.rows("joint", 37, seed=1))[0])


def plain_loop(folder):
    accelerator, model, losses = loop.train(cases.build("joint"), cases.rows("joint", 40))
    answers = loop.evaluate(accelerator, model, cases.rows("joint", 37, seed=1), cases.MIDDLE)
    weights = {f"weights.{key}": value for key, value in accelerator.unwrap_model(model).state_dict().items()}
    write(folder, "loop", {**answers, **weights, "losses": losses}, {"processes": accelerator.num_processes})


if __name__ == "__main__":
    cases.start_worker()
    root = Path(sys.argv[1])
    train_every_case(root)
    evaluate_with_exits_off_and_on(root)
    evaluate_after_training(root)
    plain_loop(root)
    cases.end_worker()
