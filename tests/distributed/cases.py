# SPDX-License-Identifier: Apache-2.0
"""Models, rows and training runs that the tests and the processes they start have in common."""

import faulthandler
import os
import sys

import torch
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_sidenet.models import BertWithSideNetForSequenceClassification, ResNetWithSideNetForImageClassification

from ..models import tiny
from ..models.naive import spread_out


# Rows that one process takes at a time.
BATCH = 4
STEPS = 4
# A θ at which these models' rows leave at different exits.
MIDDLE = 0.6
MODES = {"frozen": "all", "body": "body", "joint": "none"}
TEXT = {
    **{name: {"freeze_mainnet": mode, "exit_layers": [2]} for name, mode in MODES.items()},
    "several": {"freeze_mainnet": "none", "exit_layers": [1, 2, 3], "alpha": [0.5, 1.0, 2.0]},
    "distilled": {"freeze_mainnet": "all", "exit_layers": [1, 3], "distillation_weight": 0.5},
}
IMAGES = {
    "resnet-frozen": {"freeze_mainnet": "all", "exit_layers": [1]},
    "resnet-joint": {"freeze_mainnet": "none", "exit_layers": [1, 3]},
}
CASES = TEXT | IMAGES
# The cases that run with sharded parameters, and the class of the MainNet's blocks, each of which is sharded apart.
BLOCKS = {**dict.fromkeys(MODES, "BertLayer"), "resnet-joint": "ResNetStage"}
# Accelerate's FSDP 2 asks for the input embeddings, and a ResNet answers with an error.
SHARDED = [(name, version) for name in BLOCKS for version in (2, 1) if (name, version) != ("resnet-joint", 2)]


def start_worker():
    """First thing in a process of its own: one thread, and an end with tracebacks instead of a hang."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(float(os.environ["SIDENET_TEST_TIMEOUT"]), exit=True)


def end_worker():
    """Last thing: ends the process here, since taking down gloo's threads now and then fails ("terminate called")."""
    if torch.distributed.is_initialized():
        # Rank 0 holds the store that the others ask.
        torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def build(name, dropout=0.0, **kwargs):
    """The same model in every process."""
    torch.manual_seed(0)
    kwargs = {**CASES[name], **kwargs}
    if name in IMAGES:
        mainnet, inputs = tiny.resnet(), tiny.images(16)
        model = ResNetWithSideNetForImageClassification.from_mainnet(mainnet, input_size=[3, 32, 32], **kwargs)
    else:
        mainnet = tiny.bert(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        model, inputs = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, **kwargs), tiny.texts(16)
    return spread_out(model, inputs)


def rows(name, count, seed=0):
    """A data set: texts whose first token says the label, images whose mean does."""
    if name in IMAGES:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        pixels = torch.randn(count, 3, 32, 32, generator=generator) + labels.view(-1, 1, 1, 1)
        return [{"pixel_values": x, "labels": y} for x, y in zip(pixels, labels, strict=True)]
    ids = tiny.texts(count, seed)["input_ids"]
    return [{"input_ids": x, "labels": x[0] % 3} for x in ids]


def stacked(data):
    """All rows of a data set as one batch, without labels."""
    return {name: torch.stack([row[name] for row in data]) for name in data[0] if name != "labels"}


class StatisticsOfRank0(TrainerCallback):
    """In one process that takes the micro-batches of two: leave out what rank 1's did to the BatchNorm statistics."""

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        self.kept = [buffer.clone() for buffer in model.buffers()]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        for buffer, kept in zip(model.buffers(), self.kept, strict=True):
            buffer.copy_(kept)


def arguments(folder, **kwargs):
    fields = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": 0.05,
        # Adam would turn rounding into steps of full size where a gradient is 0: a bias before BatchNorm, for one.
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return TrainingArguments(**{**fields, **kwargs})


def make_trainer(model, name, args, callbacks=None, **kwargs):
    AcceleratorState._reset_state()
    model.config.keep_exits_at_inference()
    return Trainer(model, args, train_dataset=rows(name, 40), callbacks=callbacks, **kwargs)


def logged(trainer, key="loss"):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def routed_accuracy(prediction):
    """A metric for evaluation with exits on: it reads the answers and who gave them."""
    logits, exit_index, _ = prediction.predictions
    right = logits.argmax(-1) == prediction.label_ids
    return {"accuracy": float(right.mean()), "early": float((exit_index == 0).mean())}
