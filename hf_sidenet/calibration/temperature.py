# SPDX-License-Identifier: Apache-2.0
"""The temperature of each exit, the one under which the labels are the most likely (Guo et al., arXiv 1706.04599).

In a task with two classes it changes no order, only the meaning of θ: one θ then stands for the same certainty at
every exit.
"""

import math

import torch
from torch.nn import functional as F


LOWEST, HIGHEST = 0.05, 20.0
STEPS = 60
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature between 0.05 and 20 under which the labels are the most likely.

    Args:
        logits (`torch.Tensor` of shape `(num_rows, num_labels)`): raw logits; rows with a NaN do not count.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.

    Returns:
        `float`: 1.0 when there are no rows.
    """
    known = ~logits.isnan().any(-1)
    logits, labels = logits[known].double(), labels[known]
    if len(labels) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    # The loss is convex in 1 / temperature, so it has one valley.
    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def fit_temperatures(exit_logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """One temperature per exit.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`): raw logits.
        labels (`torch.LongTensor` of shape `(num_rows,)`): class indices.
    """
    return [fit_temperature(exit_logits[:, i], labels) for i in range(exit_logits.shape[1])]
