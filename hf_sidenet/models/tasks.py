# SPDX-License-Identifier: Apache-2.0
"""Tasks: what a MainNet's outputs mean.

One object per task defines its answers, their confidence and correctness, the losses, and the form of the labels.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import transformers
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from .errors import ArgumentError
from .modalities import IMAGE, TEXT, Modality
from .transformers_private import AutoClass


# Arguments of forward besides the MainNet's inputs.
LABEL_INPUTS = frozenset({"labels", "mainnet_logits"})
# Label of an unlabeled row.
NO_LABEL = -100


def label_names(config: PretrainedConfig) -> list[str]:
    """Return the names of the MainNet's outputs, in order.

    Args:
        config (`PretrainedConfig`): config of the MainNet, or of a checkpoint with SideNets.
    """
    names = cast("dict[int, str]", config.id2label)
    return [str(names[index]) for index in range(len(names))]


class Task:
    """Kind of answer.

    Attributes:
        name (`str`): name stored in files; transformers' `problem_type`.
        suffixes (`Mapping[str, str]`): by modality, the suffix of transformers' class names for this task.
        pipelines (`Mapping[str, str]`): by modality, the name of the pipeline, also the Hub's name of the task.
    """

    name: str
    suffixes: Mapping[str, str]
    pipelines: Mapping[str, str]

    def auto_class_name(self, modality: Modality) -> str:
        """Return the name of transformers' Auto class that builds MainNets for this task."""
        return f"AutoModel{self.suffixes[modality.name]}"

    def auto_class(self, modality: Modality) -> AutoClass:
        """See [`~Task.auto_class_name`]."""
        return getattr(transformers, self.auto_class_name(modality))

    def class_name(self, modality: Modality) -> str:
        """Return the name of this package's class that takes any MainNet for this task."""
        return f"SideNet{self.suffixes[modality.name]}"

    def check_config(self, config: PretrainedConfig) -> None:
        """Reject a MainNet for another task.

        Args:
            config (`PretrainedConfig`): config of the MainNet.

        Raises:
            ValueError: it is; the message names the field.
        """
        raise NotImplementedError

    def num_outputs(self, config: PretrainedConfig) -> int:
        """Return the number of logits per row of the MainNet and every SideNet."""
        raise NotImplementedError

    def confidence(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return the confidence of an answer, in [0, 1], to compare with θ.

        Args:
            logits (`torch.Tensor` of shape `(..., num_labels)`):
                Raw logits. Half precision is converted to float32, whose resolution near 1 is sufficient for θ.
            temperature (`float` or `torch.Tensor`, *optional*, defaults to 1.0):
                Divides the logits; see `SideNetConfig.temperatures`.

        Returns:
            `torch.Tensor` of shape `(...)`: NaN where a logit is NaN.
        """
        raise NotImplementedError

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the answer to each row, in the form of the labels."""
        raise NotImplementedError

    def probabilities(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return the probability of every class, in the shape of `logits`."""
        raise NotImplementedError

    def correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return which rows are answered correctly. A row with a NaN logit is not.

        Args:
            logits (`torch.Tensor` of shape `(num_rows, num_labels)`): raw logits.
            labels (`torch.Tensor` of shape `(num_rows, ...)`): as in training.

        Returns:
            `torch.BoolTensor` of shape `(num_rows,)`.

        Raises:
            ValueError: the shapes do not match.
        """
        raise NotImplementedError

    def differs(self, logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return which rows two classifiers answer differently, including rows with a NaN on either side."""
        broken = logits.isnan().any(-1) | reference.isnan().any(-1)
        return (self.answer(logits) != self.answer(reference)) | broken

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the training loss: a mean over the labeled rows, in at least float32."""
        raise NotImplementedError

    def distillation(self, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return `T² · KL(teacher ‖ student)`, averaged over rows; no gradient reaches the teacher."""
        raise NotImplementedError

    def probably_right(
        self, answered: torch.Tensor, believed: torch.Tensor, temperature: float, labels: torch.Tensor
    ) -> torch.Tensor:
        """Estimate the probability that each answer is right: the mean of the MainNet's probability and the label's.

        Its variance is lower than with the labels alone.

        Args:
            answered (`torch.Tensor` of shape `(num_rows, num_answers, num_labels)`): logits of the answers.
            believed (`torch.Tensor` of shape `(num_rows, num_labels)`): logits of the MainNet.
            temperature (`float`): temperature of the MainNet.
            labels (`torch.Tensor` of shape `(num_rows, ...)`): labels of the rows.

        Returns:
            `torch.Tensor` of shape `(num_rows, num_answers)`: float64.
        """
        raise NotImplementedError

    def check_labels(self, labels: torch.Tensor, batch_size: int, num_outputs: int) -> None:
        """Reject labels that do not fit a batch. Values are checked only on the CPU, to avoid synchronizing.

        Raises:
            ValueError: wrong dtype or number, or an invalid value.
        """
        raise NotImplementedError

    def check_recorded(self, labels: torch.Tensor, num_rows: int, num_outputs: int) -> None:
        """Reject labels that do not fit recorded logits, where every row needs a label.

        Raises:
            ValueError: wrong dtype or number, or an invalid value.
        """
        raise NotImplementedError

    def wrong_row(self, labels: list[int], num_outputs: int) -> int | None:
        """Return the first row of a data set with an invalid label; [`NO_LABEL`] is valid."""
        raise NotImplementedError


class SingleLabelClassification(Task):
    """One class out of several.

    For two classes, the paper (arXiv 2007.13512) has one logit and a sigmoid p; the confidence here equals its
    `max(p, 1 − p)`.
    """

    name = "single_label_classification"
    suffixes = {"text": "ForSequenceClassification", "image": "ForImageClassification"}
    pipelines = {"text": "text-classification", "image": "image-classification"}

    def check_config(self, config: PretrainedConfig) -> None:
        """See [`Task.check_config`]."""
        if config.problem_type not in (None, self.name) or self.num_outputs(config) < 2:
            raise ValueError(
                "SideNets need a single-label classifier with at least 2 classes: `problem_type` must be None or "
                f"'{self.name}' and `num_labels` ≥ 2, got {config.problem_type!r} and {config.num_labels}. Regression "
                "and multi-label MainNets have no softmax confidence to compare with θ."
            )

    def num_outputs(self, config: PretrainedConfig) -> int:
        """See [`Task.num_outputs`]."""
        return cast(int, config.num_labels)

    def confidence(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """See [`Task.confidence`]: the largest softmax probability."""
        return self.probabilities(logits, temperature).amax(-1)

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """See [`Task.answer`]: the index of the largest logit."""
        return logits.argmax(-1)

    def probabilities(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """See [`Task.probabilities`]."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (logits / temperature).softmax(-1)

    def correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See [`Task.correct`]."""
        if logits.dim() != 2 or labels.shape != logits.shape[:1]:
            raise ArgumentError(
                "logits",
                "and `labels` must have shapes (num_rows, num_labels) and (num_rows,), got "
                f"{tuple(logits.shape)} and {tuple(labels.shape)}",
            )
        return (self.answer(logits) == labels) & ~logits.isnan().any(-1)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See [`Task.loss`]: cross-entropy."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels.view(-1).to(logits.device, torch.long), ignore_index=NO_LABEL)

    def distillation(self, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """See [`Task.distillation`]."""
        student = F.log_softmax(logits.float() / temperature, dim=-1)
        teacher = F.log_softmax(teacher_logits.detach().to(logits.device).float() / temperature, dim=-1)
        return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def probably_right(
        self, answered: torch.Tensor, believed: torch.Tensor, temperature: float, labels: torch.Tensor
    ) -> torch.Tensor:
        """See [`Task.probably_right`]."""
        belief = (believed.double() / temperature).softmax(-1)
        return ((belief + F.one_hot(labels, belief.shape[1])) / 2).gather(1, self.answer(answered))

    def check_labels(self, labels: torch.Tensor, batch_size: int, num_outputs: int) -> None:
        """See [`Task.check_labels`]: class indices, [`NO_LABEL`] for rows to ignore."""
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != batch_size:
            raise ArgumentError(
                "labels",
                f"must be one class index per row, {batch_size} integers, got shape "
                f"{tuple(labels.shape)} of {labels.dtype}",
            )
        if labels.device.type != "cpu" or torch.compiler.is_dynamo_compiling():
            return
        wrong = labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= num_outputs))]
        if wrong.numel() > 0:
            raise ArgumentError("labels", f"must be in [0, {num_outputs}) or -100, got {wrong.flatten()[0].item()}")

    def check_recorded(self, labels: torch.Tensor, num_rows: int, num_outputs: int) -> None:
        """See [`Task.check_recorded`]."""
        if labels.shape != (num_rows,) or labels.dtype != torch.long:
            raise ArgumentError(
                "labels",
                f"must be int64 with shape ({num_rows},), got {labels.dtype} with shape {tuple(labels.shape)}",
            )
        wrong = labels[(labels < 0) | (labels >= num_outputs)]
        if wrong.numel() > 0:
            raise ArgumentError(
                "labels",
                f"must be in [0, {num_outputs}), got {wrong[0].item()}. Leave out unlabeled rows",
            )

    def wrong_row(self, labels: list[int], num_outputs: int) -> int | None:
        """See [`Task.wrong_row`]."""
        wrong = (row for row, label in enumerate(labels) if not (0 <= label < num_outputs or label == NO_LABEL))
        return next(wrong, None)


SINGLE_LABEL = SingleLabelClassification()
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL,)}


def task_of(config: PretrainedConfig) -> tuple[Task, Modality]:
    """Return task and modality of a MainNet or a checkpoint with SideNets, from its config alone.

    Args:
        config (`PretrainedConfig`): its `architectures` name the class; if not, the MainNet's type decides.
    """
    name = (getattr(config, "architectures", None) or [None])[0]
    for task in TASKS.values():
        for modality in (TEXT, IMAGE):
            # In a damaged file it may be anything.
            if isinstance(name, str) and name.endswith(task.suffixes[modality.name]):
                return task, modality
    return SINGLE_LABEL, modality_of(getattr(config, "mainnet_config", config))


def modality_of(config: PretrainedConfig) -> Modality:
    """Return the modality for a config's model type; image if the type has classifiers for both.

    Other code than transformers' says in its `auto_map` what it classifies.
    """
    known = config.model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    own = getattr(config, "auto_map", None) or {}
    return IMAGE if known or "AutoModelForImageClassification" in own else TEXT


def named_task(name: Any) -> Task:
    """Return the task with a name stored in a file.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ArgumentError("task", f"must be one of {', '.join(TASKS)}", name)
    return TASKS[name]
