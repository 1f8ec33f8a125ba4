# SPDX-License-Identifier: Apache-2.0
"""Policies that decide where a row exits, on recorded logits. Temperatures are those of the exits."""

from typing import Any

import torch
from choose import GRID

from hf_sidenet.models.tasks import SINGLE_LABEL


POLICIES = ("max_softmax", "margin", "entropy", "patience")


def settings_of(policy: str, num_sidenets: int) -> list[Any]:
    """Return the settings to try for a policy: thresholds, or how many consecutive exits must agree."""
    if policy == "patience":
        return list(range(1, num_sidenets))
    return [0.0, *(0.02 * i for i in range(1, 15)), *GRID] if policy != "max_softmax" else list(GRID)


def score(exit_logits: torch.Tensor, policy: str, temperatures: list[float]) -> torch.Tensor:
    """Return the confidence of each exit, from 0 to 1, of shape `(num_rows, num_exits)`.

    - max_softmax: the largest probability, the rule of this package;
    - margin: the largest minus the second largest;
    - entropy: 1 minus the entropy divided by that of the uniform distribution over the classes (BranchyNet, DeeBERT).

    Raises:
        ValueError: `policy` is none of these.
    """
    scaled = exit_logits.double() / torch.tensor(temperatures, dtype=torch.float64)[:, None]
    if policy == "max_softmax":
        each = zip(exit_logits.unbind(1), temperatures, strict=True)
        return torch.stack([SINGLE_LABEL.confidence(logits, temperature) for logits, temperature in each], 1)
    if policy == "margin":
        best = scaled.softmax(-1).topk(2, -1).values
        return best[..., 0] - best[..., 1]
    if policy == "entropy":
        logs = scaled.log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        return 1 - entropy / torch.tensor(float(scaled.shape[-1]), dtype=torch.float64).log()
    raise ValueError(f"`policy` must be one of {POLICIES[:-1]} to have a score, got {policy!r}.")


def leaves_at(exit_logits: torch.Tensor, policy: str, setting: Any, temperatures: list[float]) -> torch.Tensor:
    """Return which exit answers each row.

    Args:
        exit_logits (`torch.Tensor` of shape `(num_rows, num_exits, num_labels)`): of every exit, the MainNet's last.
        policy (`str`): one of `POLICIES`.
        setting (`float` or `int`):
            A row exits if the score is > `setting`; with patience, if the answer has been the same as that of
            the `setting` exits before (PABEE, arXiv 2006.04152).
        temperatures (`list[float]`): one per exit.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`: exit indices.
    """
    last = exit_logits.shape[1] - 1
    if policy == "patience":
        answer = exit_logits.argmax(-1)
        in_a_row = torch.zeros_like(answer)
        for i in range(1, last + 1):
            in_a_row[:, i] = torch.where(answer[:, i] == answer[:, i - 1], in_a_row[:, i - 1] + 1, 0)
        leaves = in_a_row >= setting
    else:
        leaves = score(exit_logits, policy, temperatures) > setting
    leaves = leaves.clone()
    leaves[:, last] = True
    # The first True: decreasing weights make it the largest.
    return (leaves * torch.arange(last + 1, 0, -1)).argmax(1)
