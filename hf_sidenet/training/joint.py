# SPDX-License-Identifier: Apache-2.0
"""Fine-tune MainNet and SideNets together with the stock `Trainer` (Morisot, arXiv 2007.13512, §3)."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from ..data.formats import MapStyle
from ..models.modeling_base import SideNetPreTrainedModel
from .optimizers import trainer_optimizer


TEACHER = "mainnet_logits"


@dataclass(frozen=True)
class JointTraining:
    """Settings for training MainNet and SideNets together.

    Args:
        num_epochs (`float`): passes over the training rows. There is no model selection: no other rows are read.
        learning_rate (`float`): learning rate of the MainNet.
        sidenet_learning_rate (`float`): learning rate of the SideNets.
        batch_size (`int`): rows per step.
        warmup (`float`): share of the steps in which the learning rate rises.
        distillation_weight (`float`): w in the loss of every exit; the original classifier is the teacher.
        distillation_temperature (`float`): T in the same loss.
        seed (`int`): seed of the order of the rows and of dropout.
    """

    num_epochs: float = 4
    learning_rate: float = 5e-5
    sidenet_learning_rate: float = 1e-3
    batch_size: int = 32
    warmup: float = 0.1
    distillation_weight: float = 0.7
    distillation_temperature: float = 2.0
    seed: int = 0


def tune_jointly(
    model: SideNetPreTrainedModel,
    dataset: MapStyle,
    collate_fn: Callable[[list[Any]], Any],
    teacher_logits: torch.Tensor,
    settings: JointTraining,
    *,
    progress: bool = True,
) -> None:
    """Fine-tune a model with SideNets in place.

    Afterward its MainNet is frozen again, and no row exits early until θ is set.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; changed in place.
        dataset (map-style data set): rows of model inputs with `labels`.
        collate_fn (`Callable`): function that collates a list of rows.
        teacher_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): the original classifier's logits.
        settings ([`JointTraining`]): training settings.
        progress (`bool`, *optional*, defaults to `True`): show the `Trainer`'s progress bar.
    """
    # Imported here because it takes a second.
    from transformers import Trainer, TrainingArguments

    config = model.config
    config.thresholds = [1.0] * len(config.exit_layers)
    config.temperatures = [1.0] * config.num_exits
    config.calibration = None
    config.distillation_weight = settings.distillation_weight
    config.distillation_temperature = settings.distillation_temperature
    model.set_freeze_mainnet("none")
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            os.path.join(folder, "trainer"),
            num_train_epochs=settings.num_epochs,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.batch_size,
            warmup_steps=settings.warmup,
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=not progress,
            remove_unused_columns=False,
        )
        Trainer(
            model,
            args,
            train_dataset=_Taught(dataset, teacher_logits),
            data_collator=_with_teacher(collate_fn),
            optimizer_cls_and_kwargs=trainer_optimizer(model, args, settings.sidenet_learning_rate),
        ).train()
    model.set_freeze_mainnet("all")
    model.eval()


class _Taught(Dataset):
    """Rows with the teacher's logits."""

    def __init__(self, rows: Any, teacher_logits: torch.Tensor):
        self.rows = rows
        self.teacher_logits = teacher_logits

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], TEACHER: self.teacher_logits[index]}


def _with_teacher(collate_fn: Callable[[list[Any]], Any]) -> Callable[[list[Any]], dict[str, Any]]:
    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        logits = torch.stack([row.pop(TEACHER) for row in rows])
        return {**collate_fn(rows), TEACHER: logits}

    return collate
