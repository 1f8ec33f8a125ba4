# SPDX-License-Identifier: Apache-2.0
"""Logits of every exit on a data set, collected once. Calibration and evaluation need only these, not the model."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.trainer_utils import PredictionOutput
from transformers.utils import logging

from ..io.files import replacing
from ..models.configuration_sidenet import chain_of
from ..models.errors import ArgumentError
from ..models.exit_rule import own_mainnet_logits
from ..models.mainnet import evaluating
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import NO_LABEL, SINGLE_LABEL, Task, named_task
from .inputs import model_inputs
from .metrics import replay


FORMAT = {"format": "hf_sidenet.ExitRecords", "version": "1"}
TENSORS = ("exit_logits", "labels", "mainnet_logits")


@dataclass(frozen=True, eq=False)
class ExitRecords:
    """Logits of every exit for every row of a data set, on the CPU.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`):
            Raw logits (no temperature) of every exit, the MainNet's last.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        mainnet_logits (`torch.Tensor` of shape `(num_rows, num_labels)`):
            Logits of the reference classifier, in its own precision.
        task ([`Task`], *optional*, defaults to single-label classification): the task.

    Raises:
        ValueError: shapes, dtypes or labels are invalid.
    """

    exit_logits: torch.Tensor
    labels: torch.Tensor
    mainnet_logits: torch.Tensor
    task: Task = SINGLE_LABEL

    def __post_init__(self):
        exit_logits, labels, mainnet_logits = self.exit_logits, self.labels, self.mainnet_logits
        if exit_logits.dim() != 3 or exit_logits.shape[1] < 2 or not exit_logits.is_floating_point():
            raise ArgumentError(
                "exit_logits",
                "must be floating-point with shape (num_rows, num_exits ≥ 2, num_labels), got "
                f"{exit_logits.dtype} of shape {tuple(exit_logits.shape)}",
            )
        num_rows, _, num_outputs = exit_logits.shape
        if mainnet_logits.shape != (num_rows, num_outputs) or not mainnet_logits.is_floating_point():
            raise ArgumentError(
                "mainnet_logits",
                f"must be floating-point with shape ({num_rows}, {num_outputs}), got "
                f"{mainnet_logits.dtype} of shape {tuple(mainnet_logits.shape)}",
            )
        self.task.check_recorded(labels, num_rows, num_outputs)

    @classmethod
    def from_predictions(
        cls, predictions: PredictionOutput, *, chain: Sequence[Sequence[float]] | None = None
    ) -> "ExitRecords":
        """Make records from the output of `Trainer.predict`, with exits off; rows labeled -100 are left out.

        Args:
            predictions (`PredictionOutput`): the predictions, with `exit_logits`.
            chain (`Sequence[Sequence[float]]`, *optional*): `config.chain`. Needed if it changes the MainNet's
                answers, because its own are the reference.

        Raises:
            ValueError: there are no labels or no `exit_logits`, or rows exited early (columns are missing).
        """
        if predictions.label_ids is None:
            raise ArgumentError("predictions", "must have `label_ids`, got None: the rows had no labels")
        exit_logits, labels = full_exit_logits(predictions.predictions), torch.as_tensor(predictions.label_ids)
        keep = labels != NO_LABEL
        exit_logits = exit_logits[keep]
        reference = own_mainnet_logits(exit_logits, chain or [[]])
        return cls(exit_logits=exit_logits, labels=labels[keep].long(), mainnet_logits=reference)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_exits(self) -> int:
        """Number of exits: the SideNets and the MainNet."""
        return self.exit_logits.shape[1]

    def correct(self, logits: torch.Tensor) -> torch.Tensor:
        """Return which rows these logits answer correctly, bools of shape `(num_rows,)`."""
        return self.task.correct(logits, self.labels)

    def accuracy(self, logits: torch.Tensor) -> float:
        """Return the fraction of rows that these logits answer correctly, NaN if there are none."""
        return self.correct(logits).double().mean().item()

    def route(
        self, thresholds: float | Sequence[float] = 1.0, temperatures: list[float] | None = None
    ) -> torch.Tensor:
        """Return which exit answers each row; see [`replay`]."""
        return replay(self.exit_logits, thresholds, temperatures, self.task)

    def select(self, indices: torch.Tensor | list[int]) -> "ExitRecords":
        """Return records of some of the rows, in the given order.

        Args:
            indices (`list[int]` or `torch.Tensor`): row indices, or one bool per row.
        """
        indices = torch.as_tensor(indices, dtype=None if len(indices) > 0 else torch.long)
        return replace(self, **{name: tensor[indices] for name, tensor in self._tensors().items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, atomically."""
        # Cloned because safetensors rejects tensors that share memory.
        tensors = {
            name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self._tensors().items()
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={**FORMAT, "task": self.task.name})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ExitRecords":
        """Read a file written by [`~ExitRecords.save`].

        Raises:
            ValueError: the file is damaged, has another format or version, or has invalid tensors.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} must be a safetensors file, but cannot be read: {error}") from error
        found = {name: metadata.get(name) for name in FORMAT}
        if found != FORMAT:
            raise ValueError(f"{str(path)!r} must have the metadata {FORMAT}, got {found}.")
        expected = set(TENSORS)
        if set(tensors) != expected:
            raise ValueError(f"{str(path)!r} must contain {sorted(expected)}, got {sorted(tensors)}.")
        try:
            # Files from before there were several tasks name none.
            return cls(**tensors, task=named_task(metadata.get("task", SINGLE_LABEL.name)))
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in TENSORS}


def full_exit_logits(predictions: Any) -> torch.Tensor:
    """Find the `exit_logits` of shape `(num_rows, num_exits, num_labels)` in a `Trainer`'s predictions.

    Raises:
        ValueError: there are none, or rows exited early.
    """
    arrays = predictions if isinstance(predictions, tuple | list) else [predictions]
    found = [array for array in arrays if getattr(array, "ndim", 0) == 3]
    if not found:
        shapes = [getattr(array, "shape", type(array).__name__) for array in arrays]
        raise ArgumentError(
            "predictions",
            "must contain `exit_logits` of shape (num_rows, num_exits, num_labels), got shapes "
            f"{shapes}. Make the Trainer gather them with "
            "`compute_metrics=compute_exit_metrics(model)`, or with "
            "`model.config.keep_exits_at_inference()` before `trainer.predict`",
        )
    exit_logits = torch.as_tensor(found[0])
    # A row that exited early has no logits from some exit on; an exit that computed NaN leaves a gap instead.
    missing = exit_logits.isnan().all(-1)  # (num_rows, num_exits)
    incomplete = missing[:, -1] | missing.all(0).any()
    if incomplete.any():
        raise ArgumentError(
            "exit_logits",
            f"must have every exit for every row, but {int(incomplete.sum())} of "
            f"{len(incomplete)} rows lack some, because they exited early (or their logits are "
            "NaN). Evaluate with exits off: set `model.config.thresholds = [1.0] * "
            "len(model.sidenets)`, and pass θ to `compute_exit_metrics(thresholds=...)`, which "
            "replays it. Or use `routed_exit_metrics`",
        )
    return exit_logits


@torch.no_grad()
def collect(
    model: SideNetPreTrainedModel,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    reference: PreTrainedModel | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> ExitRecords:
    """Run a model over a data set with exits off and record the logits of every exit.

    Args:
        model ([`SideNetPreTrainedModel`]): a MainNet with SideNets; its mode (training or not) is restored afterward.
        dataloader (`Iterable[Mapping[str, Any]]`):
            Batches of the model's inputs with `labels` of shape `(batch,)`. Rows labeled -100 are left out.
            Floating-point inputs are cast to the model's dtype.
        reference (`PreTrainedModel`, *optional*):
            Classifier for `mainnet_logits`, on its own device and in its own precision; by default the MainNet inside
            the model.
        device (`torch.device` or `str`, *optional*):
            Device of the batches, by default the model's. The model itself is not moved.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        [`ExitRecords`]: records on the CPU, in the order of the batches.

    Raises:
        ValueError: a batch has no `labels`, a label is not a class index, or there are no rows.
    """
    device = model.device if device is None else device
    models = [model] if reference is None else [model, reference]
    task = model.task
    exit_logits, labels, mainnet_logits = [], [], []
    with evaluating(*models):
        for number, batch in enumerate(logging.tqdm(dataloader, desc="Collecting exit logits", disable=not progress)):
            if batch.get("labels") is None:
                raise ValueError(f"every batch must have `labels`, but batch {number} has only {sorted(batch)}.")
            batch_labels = torch.as_tensor(batch["labels"]).cpu().view(-1)
            output = model(**model_inputs(batch, device, model.dtype), thresholds=1.0)
            task.check_labels(batch_labels, *output.logits.shape)
            keep = batch_labels != NO_LABEL
            exit_logits.append(output.exit_logits.cpu()[keep])
            labels.append(batch_labels[keep].long())
            if reference is not None:
                inputs = model_inputs(batch, reference.device, reference.dtype)
                mainnet_logits.append(reference(**inputs).logits.cpu()[keep])
    if sum(len(batch_labels) for batch_labels in labels) == 0:
        raise ArgumentError("dataloader", "must yield at least one row, got none")
    exit_logits = torch.cat(exit_logits)
    return ExitRecords(
        exit_logits=exit_logits,
        labels=torch.cat(labels),
        mainnet_logits=(
            own_mainnet_logits(exit_logits, chain_of(model.config)) if reference is None else torch.cat(mainnet_logits)
        ),
        task=task,
    )
