# SPDX-License-Identifier: Apache-2.0
"""Train all candidate SideNets together on cached features (Morisot, arXiv 2007.13512, §3: independent losses).

SideNets do not affect each other, so training them together gives the same result as training each alone.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers.utils import logging

from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from ..models.exit_rule import stack_exits
from ..models.sidenet import SideNet, exit_loss
from ..models.tasks import SINGLE_LABEL, Task
from .features import Candidate, Features


ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class HeadTraining:
    """Training settings of candidate SideNets.

    Args:
        hidden_size (`int`): width of the hidden layer.
        max_epochs (`int`): maximum number of passes over the training rows.
        patience (`int`): a SideNet stops after this many epochs without a lower loss on the stopping rows.
        batch_size (`int`): rows per step.
        learning_rate (`float`): learning rate of AdamW.
        weight_decay (`float`): weight decay of AdamW.
        distillation_weight (`float`): w in `(1 − w) · CE + w · T² · KL` to the MainNet's logits.
        distillation_temperature (`float`): T.
        seed (`int`): seed of the initial weights and the order of the rows.

    Raises:
        ValueError: a number is not positive, or the distillation weight is not in [0, 1].
    """

    hidden_size: int = 32
    max_epochs: int = 30
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    distillation_weight: float = 0.5
    distillation_temperature: float = 2.0
    seed: int = 0

    def __post_init__(self):
        positive = ("hidden_size", "max_epochs", "patience", "batch_size", "learning_rate", "distillation_temperature")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ArgumentError(name, "must be > 0", getattr(self, name))
        if not 0 <= self.distillation_weight <= 1:
            raise ArgumentError("distillation_weight", "must be in [0, 1]", self.distillation_weight)
        if not self.weight_decay >= 0:
            raise ArgumentError("weight_decay", "must be ≥ 0", self.weight_decay)


@dataclass(frozen=True)
class HeadData:
    """Rows for training candidate SideNets, on one device.

    Args:
        features (`Mapping[Candidate, torch.Tensor]`): per candidate, pooled x_c of shape `(num_rows, width)`.
        mainnet_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): logits of the teacher.
        labels (`torch.LongTensor` of shape `(num_rows,)`, *optional*): class indices; without them, only the
            distillation term remains.
        task ([`Task`], *optional*, defaults to single-label classification): the task.
    """

    features: Mapping[Candidate, torch.Tensor]
    mainnet_logits: torch.Tensor
    labels: torch.Tensor | None
    task: Task = SINGLE_LABEL

    def __len__(self) -> int:
        return len(self.mainnet_logits)


@torch.no_grad()
def sidenet_logits(sidenet: SideNet, features: torch.Tensor) -> torch.Tensor:
    """Return a SideNet's logits for cached features, the same as inside the model.

    Args:
        sidenet ([`SideNet`]): the SideNet, in evaluation mode.
        features (`torch.Tensor` of shape `(num_rows, width)`): pooled x_c.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_labels)`: on the CPU.
    """
    weight = sidenet.dense.weight
    return torch.cat([sidenet(rows.to(weight)).cpu() for rows in features.split(ROWS_AT_ONCE)])


def cached_records(
    features: Features,
    candidates: Sequence[Candidate],
    sidenets: Sequence[SideNet],
    labels: torch.Tensor,
    mainnet_logits: torch.Tensor | None = None,
    task: Task = SINGLE_LABEL,
) -> ExitRecords:
    """Make exit records from cached features, without running the MainNet.

    Args:
        features ([`Features`]): features of the rows, from the MainNet of the SideNets.
        candidates (`Sequence[Candidate]`): candidate of each SideNet, after a block.
        sidenets (`Sequence[SideNet]`): SideNets in evaluation mode.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        mainnet_logits (`torch.Tensor` of shape `(num_rows, num_labels)`, *optional*):
            Logits of the reference classifier, by default this MainNet.
        task ([`Task`], *optional*, defaults to single-label classification): the task.
    """
    columns = [sidenet_logits(sidenet, features.features(c)) for c, sidenet in zip(candidates, sidenets, strict=True)]
    own = features.mainnet_logits
    return ExitRecords(
        exit_logits=stack_exits([*columns, own]),
        labels=labels,
        mainnet_logits=own.clone() if mainnet_logits is None else mainnet_logits,
        task=task,
    )


@dataclass
class _Learner:
    sidenet: SideNet
    optimizer: torch.optim.Optimizer
    best_loss: float = float("inf")
    best_state: dict | None = None
    waited: int = 0


def train_heads(
    train: HeadData, stopping: HeadData, settings: HeadTraining, *, progress: bool = True
) -> dict[Candidate, SideNet]:
    """Train a SideNet for every candidate; each keeps the weights of its best epoch on the stopping rows.

    Args:
        train ([`HeadData`]): training rows.
        stopping ([`HeadData`]): rows for early stopping, which must not certify later.
        settings ([`HeadTraining`]): training settings.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `dict[Candidate, SideNet]`: SideNets in evaluation mode, in the order of `train.features`.

    Raises:
        ValueError: there are no rows, or no labels although the loss needs them.
    """
    for name, data in (("train", train), ("stopping", stopping)):
        if len(data) == 0:
            raise ArgumentError(name, "must contain at least one row, got none")
        if data.labels is None and settings.distillation_weight == 0:
            raise ArgumentError(name, "must have labels if `distillation_weight` is 0, got none")
    generator = torch.Generator().manual_seed(settings.seed)
    learners = {candidate: _new_learner(x, train, settings) for candidate, x in train.features.items()}
    with logging.tqdm(total=settings.max_epochs, desc="Training SideNets", disable=not progress) as bar:
        for _ in range(settings.max_epochs):
            order = torch.randperm(len(train), generator=generator)
            active = [(c, learner) for c, learner in learners.items() if learner.waited < settings.patience]
            if not active:
                break
            for candidate, learner in active:
                _learn(learner, train, train.features[candidate], order, settings)
                _look(learner, stopping, stopping.features[candidate], settings)
            bar.update()
    for learner in learners.values():
        assert learner.best_state is not None  # Each has trained for an epoch.
        learner.sidenet.load_state_dict(learner.best_state)
        learner.sidenet.eval()
    return {candidate: learner.sidenet for candidate, learner in learners.items()}


def _new_learner(features: torch.Tensor, train: HeadData, settings: HeadTraining) -> _Learner:
    # Each from the same seed, so that a candidate's weights do not depend on the others.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sidenet = SideNet(features.shape[1], settings.hidden_size, train.mainnet_logits.shape[1])
    sidenet.to(features.device)
    optimizer = torch.optim.AdamW(sidenet.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return _Learner(sidenet, optimizer)


def _learn(
    learner: _Learner, train: HeadData, features: torch.Tensor, order: torch.Tensor, settings: HeadTraining
) -> None:
    learner.sidenet.train()
    for rows in order.split(settings.batch_size):
        rows = rows.to(features.device)
        loss = head_loss(learner.sidenet(features[rows].float()), train, rows, settings)
        learner.optimizer.zero_grad()
        loss.backward()
        learner.optimizer.step()


@torch.no_grad()
def _look(learner: _Learner, stopping: HeadData, features: torch.Tensor, settings: HeadTraining) -> None:
    """Keep the weights if the loss on the stopping rows is lower than before; NaN never is."""
    learner.sidenet.eval()
    loss = head_loss(learner.sidenet(features.float()), stopping, slice(None), settings).item()
    if loss < learner.best_loss or learner.best_state is None:
        learner.best_loss, learner.waited = (float("inf") if math.isnan(loss) else loss), 0
        learner.best_state = copy.deepcopy(learner.sidenet.state_dict())
    else:
        learner.waited += 1


def head_loss(
    logits: torch.Tensor, data: HeadData, rows: torch.Tensor | slice, settings: HeadTraining
) -> torch.Tensor:
    """Return the loss of a SideNet for some rows.

    Args:
        logits (`torch.Tensor` of shape `(rows, num_labels)`): its logits.
        data ([`HeadData`]): labels and MainNet logits.
        rows (`torch.LongTensor` or `slice`): which rows of the data.
        settings ([`HeadTraining`]): weight and temperature of distillation.
    """
    labels = None if data.labels is None else data.labels[rows]
    loss = exit_loss(
        [logits],
        None,
        labels,
        data.mainnet_logits[rows],
        alpha=[1.0],
        task=data.task,
        distillation_weight=settings.distillation_weight if labels is not None else 1.0,
        distillation_temperature=settings.distillation_temperature,
    )
    assert loss is not None  # Without labels, the distillation term remains.
    return loss
