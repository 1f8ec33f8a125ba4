# SPDX-License-Identifier: Apache-2.0
"""Fit the temperature of each exit that maximizes the likelihood of the labels (Guo et al., arXiv 1706.04599).

With two classes it never changes the ranking of rows by confidence, only the meaning of θ: the same θ then means the
same certainty at every exit.
"""

import math

import torch

from ..models.tasks import SINGLE_LABEL, Task
from ..optional import require


LOWEST, HIGHEST = 0.05, 20.0
# Tolerance of the logarithm.
TOLERANCE = 1e-9


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL) -> float:
    """Fit the temperature between 0.05 and 20 that maximizes the likelihood of the labels.

    Args:
        logits (`torch.Tensor` of shape `(num_rows, num_labels)`): raw logits; rows with a NaN are ignored.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        task ([`Task`], *optional*, defaults to single-label classification): defines the likelihood.

    Returns:
        `float`: the temperature, 1.0 if there are no rows.

    Raises:
        ImportError: scipy is not installed.
    """
    known = ~logits.isnan().any(-1)
    logits, labels = logits[known].double(), labels[known]
    if len(labels) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        return task.loss(logits / math.exp(log_temperature), labels).item()

    # The loss is convex in 1 / temperature, so it has one minimum; the bounds cover a monotonic or flat loss.
    search = require("scipy.optimize", "attach").minimize_scalar
    bounds = (math.log(LOWEST), math.log(HIGHEST))
    inside = search(loss, bounds=bounds, method="bounded", options={"xatol": TOLERANCE}).x
    return math.exp(min((loss(at), at) for at in (*bounds, float(inside)))[1])


def fit_temperatures(exit_logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL) -> list[float]:
    """Fit one temperature per exit.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`): raw logits.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
        task ([`Task`], *optional*, defaults to single-label classification): see [`fit_temperature`].
    """
    return [fit_temperature(exit_logits[:, i], labels, task) for i in range(exit_logits.shape[1])]
