# SPDX-License-Identifier: Apache-2.0
"""What comes out of a MainNet, and what it means. One object per task, the only place that knows what an answer is:
how sure it is, whether it is right, what teaches it, and what its labels look like.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import transformers
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from .errors import ArgumentError
from .modalities import IMAGE, TEXT, Modality


# What forward takes beside the MainNet's inputs.
LABEL_INPUTS = frozenset({"labels", "mainnet_logits"})
# Label of a row that has none.
NO_LABEL = -100


def label_names(config: PretrainedConfig) -> list[str]:
    """Names of the MainNet's outputs, in their order.

    Args:
        config (`PretrainedConfig`): of the MainNet, or of a checkpoint with SideNets.
    """
    names = cast("dict[int, str]", config.id2label)
    return [str(names[index]) for index in range(len(names))]


class Task:
    """A kind of answer.

    Attributes:
        name (`str`): as it is written to files; the `problem_type` of transformers.
        suffixes (`Mapping[str, str]`): by modality, how transformers ends the names of its classes for this task.
        pipelines (`Mapping[str, str]`): by modality, the name of the pipeline, which is the Hub's name of the task.
    """

    name: str
    suffixes: Mapping[str, str]
    pipelines: Mapping[str, str]

    def auto_class_name(self, modality: Modality) -> str:
        """The Auto class of transformers that builds MainNets for this task."""
        return f"AutoModel{self.suffixes[modality.name]}"

    def auto_class(self, modality: Modality) -> type[_BaseAutoModelClass]:
        """See [`~Task.auto_class_name`]."""
        return getattr(transformers, self.auto_class_name(modality))

    def class_name(self, modality: Modality) -> str:
        """Our class that takes any MainNet for this task."""
        return f"SideNet{self.suffixes[modality.name]}"

    def check_config(self, config: PretrainedConfig) -> None:
        """Refuse a MainNet whose answers are of another kind.

        Args:
            config (`PretrainedConfig`): of the MainNet.

        Raises:
            ValueError: names the field.
        """
        raise NotImplementedError

    def num_outputs(self, config: PretrainedConfig) -> int:
        """Number of logits per row, of the MainNet and of every SideNet."""
        raise NotImplementedError

    def confidence(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """How sure an answer is, in [0, 1]: what is compared with θ.

        Args:
            logits (`torch.Tensor` of shape `(..., num_labels)`):
                Raw logits. Half-precision logits are read in float32, whose steps near 1 are fine enough for θ.
            temperature (`float` or `torch.Tensor`, *optional*, defaults to 1.0):
                Divides the logits; from `SideNetConfig.temperatures`.

        Returns:
            `torch.Tensor` of shape `(...)`: NaN where a logit is NaN.
        """
        raise NotImplementedError

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """The answer of each row, in the form of its labels."""
        raise NotImplementedError

    def probabilities(self, logits: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> torch.Tensor:
        """What the logits say of every class, in [0, 1]; of the shape of `logits`."""
        raise NotImplementedError

    def correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which rows are answered rightly. A row with a NaN among its logits is not.

        Args:
            logits (`torch.Tensor` of shape `(num_rows, num_labels)`): raw logits.
            labels (`torch.Tensor` of shape `(num_rows, ...)`): as in training.

        Returns:
            `torch.BoolTensor` of shape `(num_rows,)`.

        Raises:
            ValueError: the shapes do not fit.
        """
        raise NotImplementedError

    def differs(self, logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Which rows two classifiers answer differently; those with a NaN on either side do."""
        broken = logits.isnan().any(-1) | reference.isnan().any(-1)
        return (self.answer(logits) != self.answer(reference)) | broken

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What training lowers: a mean over the rows that have a label, in at least float32."""
        raise NotImplementedError

    def distillation(self, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """`T² · KL(teacher ‖ student)`, a mean over rows; no gradient reaches the teacher."""
        raise NotImplementedError

    def probably_right(
        self, answered: torch.Tensor, believed: torch.Tensor, temperature: float, labels: torch.Tensor
    ) -> torch.Tensor:
        """Probability that the answers to a row are right: half what the MainNet believes, half what is so.

        It has less variance than the labels alone, which say of a single row only whether it was lucky.

        Args:
            answered (`torch.Tensor` of shape `(num_rows, num_answers, num_labels)`): logits of some answers.
            believed (`torch.Tensor` of shape `(num_rows, num_labels)`): the MainNet's logits.
            temperature (`float`): of the MainNet.
            labels (`torch.Tensor` of shape `(num_rows, ...)`): what is so.

        Returns:
            `torch.Tensor` of shape `(num_rows, num_answers)`: float64.
        """
        raise NotImplementedError

    def check_labels(self, labels: torch.Tensor, batch_size: int, num_outputs: int) -> None:
        """Refuse labels that cannot be those of a batch. Values are read on the CPU only, where that waits for
        nothing.

        Raises:
            ValueError: wrong dtype or number, or an impossible value.
        """
        raise NotImplementedError

    def check_recorded(self, labels: torch.Tensor, num_rows: int, num_outputs: int) -> None:
        """Refuse labels beside recorded logits: every row has one there.

        Raises:
            ValueError: wrong dtype or number, or an impossible value.
        """
        raise NotImplementedError

    def wrong_row(self, labels: list[int], num_outputs: int) -> int | None:
        """The first row of a data set whose label is impossible; [`NO_LABEL`] is possible."""
        raise NotImplementedError


class SingleLabelClassification(Task):
    """One class out of several. For two classes the paper (arXiv 2007.13512) has one logit and a sigmoid p; the
    confidence here is then its `max(p, 1 − p)`."""

    name = "single_label_classification"
    suffixes = {"text": "ForSequenceClassification", "image": "ForImageClassification"}
    pipelines = {"text": "text-classification", "image": "image-classification"}

    def check_config(self, config: PretrainedConfig) -> None:
        """See [`Task.check_config`]."""
        if config.problem_type not in (None, self.name) or self.num_outputs(config) < 2:
            raise ValueError(
                "SideNets need a classifier with one label out of at least 2: `problem_type` must be None or "
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
        """See [`Task.check_labels`]: indices of classes, [`NO_LABEL`] for rows that do not count."""
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
                f"must be int64 of shape ({num_rows},), got {labels.dtype} of shape {tuple(labels.shape)}",
            )
        wrong = labels[(labels < 0) | (labels >= num_outputs)]
        if wrong.numel() > 0:
            raise ArgumentError(
                "labels",
                f"must be in [0, {num_outputs}), got {wrong[0].item()}. Leave rows without a label out",
            )

    def wrong_row(self, labels: list[int], num_outputs: int) -> int | None:
        """See [`Task.wrong_row`]."""
        wrong = (row for row, label in enumerate(labels) if not (0 <= label < num_outputs or label == NO_LABEL))
        return next(wrong, None)


SINGLE_LABEL = SingleLabelClassification()
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL,)}


def task_of(config: PretrainedConfig) -> tuple[Task, Modality]:
    """Task and modality of a MainNet, or of a checkpoint with SideNets, that is not loaded.

    Args:
        config (`PretrainedConfig`): its `architectures` name the class; where they do not, the MainNet's type decides.
    """
    name = (getattr(config, "architectures", None) or [None])[0]
    for task in TASKS.values():
        for modality in (TEXT, IMAGE):
            # In a damaged file it may be anything.
            if isinstance(name, str) and name.endswith(task.suffixes[modality.name]):
                return task, modality
    return SINGLE_LABEL, modality_of(getattr(config, "mainnet_config", config))


def modality_of(config: PretrainedConfig) -> Modality:
    """Modality of a MainNet, by the type of its config; a type that has classifiers of both reads images."""
    return IMAGE if config.model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES else TEXT


def named_task(name: Any) -> Task:
    """A task by its name in a file.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ArgumentError("task", f"must be one of {', '.join(TASKS)}", name)
    return TASKS[name]
