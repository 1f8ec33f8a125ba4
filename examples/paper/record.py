# SPDX-License-Identifier: Apache-2.0
"""The output of a finished run: logits of validation and test rows, costs, and provenance."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cut_model import load_cut
from experiments import Experiment
from rows import longest_first, rows_of
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

import hf_sidenet  # noqa: F401 - registers its classes with the Auto classes
from hf_sidenet.data.rows import Rows
from hf_sidenet.inference.collect import first_batches
from hf_sidenet.io.files import replacing
from hf_sidenet.measurement import collect, measure_costs
from hf_sidenet.measurement.costs import medians, time_calls
from hf_sidenet.measurement.inputs import model_inputs
from hf_sidenet.models.blocks import counting_flops
from hf_sidenet.models.mainnet import evaluating
from hf_sidenet.models.modeling_base import SideNetPreTrainedModel


RUN = "run.json"
SPLITS = ("validation", "test")
BATCH_SIZE = 32
# Batches to count and to time, and how often.
COUNTED, TIMED, REPEATS = 8, 2, 3


def record(experiment: Experiment, seed: int, folder: Path, words: list[str], origin: Mapping[str, Any]) -> None:
    """Evaluate a trained checkpoint in float32 and write `run.json` last.

    Args:
        experiment ([`Experiment`]): what was trained.
        seed (`int`): of this run.
        folder (`Path`): with the checkpoint; the epoch checkpoints are removed.
        words (`list[str]`): arguments of the run.
        origin (`Mapping[str, Any]`): date, commit, versions and hardware of the training, and its seconds.
    """
    rows = rows_of(experiment, words, folder)
    model = load_model(experiment, folder)
    for split in SPLITS:
        record_rows(model, rows[split], folder, split)
    write_run(experiment, seed, folder, words, rows, costs_of(model, rows["test"]), origin)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def load_model(experiment: Experiment, folder: Path) -> PreTrainedModel:
    """Load the trained model in float32, on a GPU if there is one."""
    if experiment.task == "text-cut":
        model = load_cut(folder)
    elif experiment.modality.has_tokens:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    else:
        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def record_rows(model: PreTrainedModel, rows: Rows, folder: Path, split: str) -> None:
    """Write `SPLIT_records.safetensors` for a model with SideNets, `SPLIT_logits.safetensors` for a plain one."""
    loader, back = longest_first(rows, BATCH_SIZE)
    if isinstance(model, SideNetPreTrainedModel):
        collect(model, loader).select(back).save(folder / f"{split}_records.safetensors")
        return
    logits, labels = [], []
    with torch.no_grad(), evaluating(model):
        for batch in logging.tqdm(loader, desc=f"Logits of {split} rows"):
            labels.append(batch["labels"].cpu())
            logits.append(model(**model_inputs(batch, model.device, model.dtype)).logits.cpu())
    found = {"logits": torch.cat(logits)[back], "labels": torch.cat(labels)[back].long()}
    with replacing(folder / f"{split}_logits.safetensors") as temporary:
        save_file(found, temporary)


def costs_of(model: PreTrainedModel, rows: Rows) -> dict[str, Any]:
    """Return the cost of an answer at each exit on rows in order, or of a plain model: parameters, FLOPs, ms a row."""
    batches = first_batches(rows, BATCH_SIZE, COUNTED)
    if isinstance(model, SideNetPreTrainedModel):
        return asdict(measure_costs(model, batches, repeats=REPEATS, timed_batches=TIMED, progress=True))
    inputs = [model_inputs(batch, model.device, model.dtype) for batch in batches]
    num_rows = sum(len(batch["labels"]) for batch in batches)
    with torch.no_grad(), evaluating(model), counting_flops() as counter:
        for batch in inputs:
            model(**batch)
    with torch.no_grad(), evaluating(model):
        seconds = medians(time_calls([partial(model)], inputs[:TIMED], REPEATS, progress=False))[0]
    return {
        "mainnet_params": sum(parameter.numel() for parameter in model.parameters()),
        "mainnet_flops": counter.get_total_flops() / num_rows,
        "mainnet_milliseconds": 1e3 * seconds / sum(len(batch["labels"]) for batch in batches[:TIMED]),
        "num_threads": torch.get_num_threads(),
        "device": str(model.device),
    }


def write_run(
    experiment: Experiment,
    seed: int,
    folder: Path,
    words: list[str],
    rows: Mapping[str, Rows],
    costs: dict[str, Any],
    origin: Mapping[str, Any],
) -> None:
    """Write `run.json`, which marks a run as finished."""
    content = {
        "name": experiment.name,
        "task": experiment.modality.name,
        "group": experiment.group,
        "seed": seed,
        "arguments": words,
        **origin,
        "rows": {split: len(of) for split, of in rows.items()},
        "fingerprints": {split: of.fingerprint for split, of in rows.items()},
        "costs": costs,
    }
    with replacing(folder / RUN) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
