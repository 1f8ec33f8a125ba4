# SPDX-License-Identifier: Apache-2.0
"""The rows of a run, split as it was trained."""

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from experiments import SCRIPTS, Experiment
from torch.utils.data import DataLoader
from transformers import AutoConfig, HfArgumentParser, TrainingArguments

from hf_sidenet.data import Columns, load_processor
from hf_sidenet.data.rows import Rows, prepare_rows
from hf_sidenet.models.modalities import Modality
from hf_sidenet.training import MainNetArguments, SideNetArguments


def rows_of(experiment: Experiment, words: list[str], checkpoint: Path) -> dict[str, Rows]:
    """Return train, validation and test rows as inputs of this experiment's checkpoint, images without augmentation.

    Args:
        experiment ([`Experiment`]): what was trained.
        words (`list[str]`): its arguments.
        checkpoint (`Path`): folder with the config and the processor.
    """
    data = data_module(experiment.modality)
    _, data_args, _, training_args = parse(words, experiment.modality)
    load = data.load_texts if experiment.modality.has_tokens else data.load_images
    inputs = tuple(data_args.text_columns) if experiment.modality.has_tokens else (data_args.image_column,)
    return prepare_rows(
        load(data_args, training_args.seed),
        AutoConfig.from_pretrained(checkpoint),
        load_processor(str(checkpoint), experiment.modality),
        modality=experiment.modality,
        columns=Columns(inputs, data_args.label_column, experiment.modality.name),
        max_length=data_args.max_seq_length if experiment.modality.has_tokens else None,
    )


def longest_first(rows: Rows, batch_size: int) -> tuple[DataLoader, torch.Tensor]:
    """Return batches of rows, the longest texts first to reduce padding, and the indices that restore the order.

    Args:
        rows ([`Rows`]): texts, or images, whose order is kept.
        batch_size (`int`): rows per batch.

    Returns:
        `tuple[DataLoader, torch.Tensor]`: the batches, and the position of each row in them, of shape `(num_rows,)`.
    """
    order = list(range(len(rows)))
    if "input_ids" in getattr(rows.dataset, "column_names", []):
        lengths = [len(ids) for ids in rows.dataset.with_format(None)["input_ids"]]
        order.sort(key=lambda i: -lengths[i])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    loader = DataLoader(rows.dataset, batch_sampler=batches, collate_fn=rows.collate_fn)
    return loader, torch.tensor(order).argsort()


def parse(words: list[str], modality: Modality) -> tuple:
    """Parse MainNet, data, SideNet and training arguments."""
    kinds = (MainNetArguments, data_module(modality).DataArguments, SideNetArguments, TrainingArguments)
    return HfArgumentParser(kinds).parse_args_into_dataclasses(words)


@cache
def data_module(modality: Modality) -> ModuleType:
    """Return `text_data` or `image_data`, in the folder of the script that trains on them."""
    sys.path.append(str(SCRIPTS[modality.name].parent))
    return importlib.import_module(f"{modality.name}_data")
