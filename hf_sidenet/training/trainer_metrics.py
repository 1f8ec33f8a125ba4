# SPDX-License-Identifier: Apache-2.0
"""Metrics of every exit for the stock `Trainer`: `Trainer(compute_metrics=compute_exit_metrics(model))`.

They need full `exit_logits`, so evaluate with exits off (θ = 1, the default of an uncalibrated model); exits at any θ
are then replayed. Models are also trained and selected this way. For a model at its own θ, use
[`routed_exit_metrics`].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import EvalPrediction

from ..measurement.metrics import STANDARD_BINS, accuracy, check_temperatures, expected_calibration_error, replay
from ..measurement.records import full_exit_logits
from ..models.errors import ArgumentError
from ..models.exit_rule import answers
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import NO_LABEL, SINGLE_LABEL, Task


def compute_exit_metrics(
    model: SideNetPreTrainedModel | None = None,
    *,
    thresholds: float | Sequence[float] | None = None,
    temperatures: list[float] | None = None,
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make a `compute_metrics` for `Trainer`, and configure the model to return what it needs.

    Metrics: for every exit i, the MainNet's last, `exit_{i}_accuracy` and `exit_{i}_ece` over all rows; and with rows
    routed at θ, `accuracy`, `exit_{i}_share` (the fraction of rows answered there) and `exit_{i}_routed_accuracy`
    (the accuracy among them, NaN if there are none). All are fractions, not percentages.

    Args:
        model ([`SideNetPreTrainedModel`], *optional*):
            Model of the `Trainer`, which by default gathers only `logits`: from now on also `exit_index` and
            `exit_logits` ([`SideNetConfig.keep_exits_at_inference`]). `None` to replay predictions that have them.
        thresholds (`float` or `list[float]`, *optional*):
            θ to replay, one for all SideNets or one each; by default 1, exits off.
        temperatures (`list[float]`, *optional*): one per exit; by default 1 each.

    Returns:
        `Callable[[EvalPrediction], dict[str, float]]`: raises ValueError if `exit_logits` are missing, or incomplete
        because rows exited during the evaluation.

    Raises:
        ValueError: `model` has no SideNets.

    Example:

    ```python
    >>> trainer = Trainer(model, args, eval_dataset=rows, compute_metrics=compute_exit_metrics(model, thresholds=0.9))
    >>> trainer.evaluate()["eval_exit_0_share"]
    0.34375
    ```
    """
    _ask(model)
    return partial(
        _exit_metrics,
        thresholds=1.0 if thresholds is None else thresholds,
        temperatures=temperatures,
        task=getattr(model, "task", SINGLE_LABEL),
    )


def routed_exit_metrics(model: SideNetPreTrainedModel | None = None) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make a `compute_metrics` for an evaluation at the model's own θ, in which rows really exit.

    Its metrics are those of [`compute_exit_metrics`] that do not need every exit for every row: `accuracy`, and for
    every exit i, the MainNet's last, `exit_{i}_share` and `exit_{i}_routed_accuracy`. Trackers show them as
    `eval/exit_0_share`, ...

    Args:
        model ([`SideNetPreTrainedModel`], *optional*): see [`compute_exit_metrics`].

    Returns:
        `Callable[[EvalPrediction], dict[str, float]]`: raises ValueError if `logits`, `exit_index` or `exit_logits` is
        missing, or `label_ids` is not one class index per row.

    Raises:
        ValueError: `model` has no SideNets.

    Example:

    ```python
    >>> trainer = Trainer(model, args, eval_dataset=rows, compute_metrics=routed_exit_metrics(model))
    >>> trainer.evaluate()["eval_exit_0_share"]
    0.34375
    ```
    """
    _ask(model)
    return partial(_routed_metrics, task=getattr(model, "task", SINGLE_LABEL))


def _ask(model: SideNetPreTrainedModel | None) -> None:
    if model is None:
        return
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "keep_exits_at_inference"):
        raise ArgumentError(
            "model", f"must be a model with SideNets or None, got {model!r:.60}; pass θ as `thresholds=`"
        )
    config.keep_exits_at_inference()


def _routed_metrics(prediction: EvalPrediction, task: Task) -> dict[str, float]:
    arrays: Any = prediction.predictions
    dims = [getattr(array, "ndim", None) for array in arrays] if isinstance(arrays, tuple | list) else []
    if dims[:3] != [2, 1, 3]:
        shapes = [getattr(array, "shape", type(array).__name__) for array in arrays]
        raise ArgumentError(
            "predictions",
            "must be `logits`, `exit_index` and `exit_logits` of a model with SideNets, got "
            f"shapes {shapes}: `routed_exit_metrics(model)` makes the Trainer gather them",
        )
    logits, exit_index = torch.as_tensor(arrays[0]), torch.as_tensor(arrays[1])
    labels = _labels_of(prediction.label_ids, len(logits))
    counted = labels != NO_LABEL
    logits, exit_index, labels = logits[counted], exit_index[counted], labels[counted]
    metrics = {"accuracy": accuracy(logits, labels, task)}
    for i in range(arrays[2].shape[1]):
        here = exit_index == i
        metrics[f"exit_{i}_share"] = here.double().mean().item()
        metrics[f"exit_{i}_routed_accuracy"] = accuracy(logits[here], labels[here], task)
    return metrics


def _exit_metrics(
    prediction: EvalPrediction, thresholds: float | Sequence[float], temperatures: list[float] | None, task: Task
) -> dict[str, float]:
    exit_logits = full_exit_logits(prediction.predictions)
    labels = _labels_of(prediction.label_ids, len(exit_logits))
    counted = labels != NO_LABEL
    exit_logits, labels = exit_logits[counted], labels[counted]
    num_exits = exit_logits.shape[1]
    temperatures = check_temperatures(temperatures, num_exits)
    exit_index = replay(exit_logits, thresholds, temperatures, task)
    metrics = {"accuracy": accuracy(answers(exit_logits, exit_index), labels, task)}
    for i in range(num_exits):
        logits, here = exit_logits[:, i], exit_index == i
        metrics[f"exit_{i}_accuracy"] = accuracy(logits, labels, task)
        metrics[f"exit_{i}_ece"] = _ece(logits, labels, temperatures[i], task)
        metrics[f"exit_{i}_share"] = here.double().mean().item()
        metrics[f"exit_{i}_routed_accuracy"] = accuracy(logits[here], labels[here], task)
    return metrics


def _labels_of(label_ids: Any, num_rows: int) -> torch.Tensor:
    if getattr(label_ids, "shape", None) != (num_rows,):
        got = getattr(label_ids, "shape", type(label_ids).__name__)
        raise ArgumentError("label_ids", f"must be one class index per row, shape ({num_rows},), got {got}")
    return torch.as_tensor(label_ids)


def _ece(logits: torch.Tensor, labels: torch.Tensor, temperature: float, task: Task) -> float:
    """Return the ECE over the rows with logits at this exit."""
    confidences = task.confidence(logits, temperature)
    known = ~confidences.isnan()
    return expected_calibration_error(confidences[known], task.correct(logits, labels)[known], **STANDARD_BINS)
