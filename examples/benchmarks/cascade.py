# SPDX-License-Identifier: Apache-2.0
"""A cascade of two classifiers: a small one answers the rows it is confident about, a large one the others."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_sidenet.inference.rows import Batch
from hf_sidenet.models.exit_rule import leaves
from hf_sidenet.models.tasks import SINGLE_LABEL


def by_cascade(
    small: Any, large: Any, threshold: float
) -> Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return how [`~hf_sidenet.inference.routings.WholeEngine`] answers a batch with a cascade. Exit 0 is the small
    classifier, exit 1 the large one.

    Args:
        small ([`PlainChain`] or similar): runs for all rows.
        large ([`PlainChain`] or similar): runs for the rows that the small one is not confident about.
        threshold (`float`): the small one answers if its confidence is greater.
    """

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, logits = small(0, None, batch.inputs)
        unsure = (~leaves(SINGLE_LABEL.confidence(logits), threshold)).nonzero().squeeze(1)
        exit_index = torch.zeros(len(batch.rows), dtype=torch.long)
        if len(unsure):
            rest = unsure.tolist()
            _, others = large(0, None, batch.select(rest).inputs)
            logits = logits.index_copy(0, unsure, others.to(logits.dtype))
            exit_index[rest] = 1
        return logits, exit_index

    return answer


def cascade_threshold(
    small_logits: torch.Tensor, large_labels: torch.Tensor, labels: Sequence[int], accuracy: float
) -> float:
    """Return the lowest threshold at which a cascade reaches an accuracy on these very rows. It cannot be known in
    advance, which favors the cascade.

    Args:
        small_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): of the small classifier.
        large_labels (`torch.LongTensor` of shape `(num_rows,)`): classes predicted by the large classifier.
        labels (`Sequence[int]`): the correct classes.
        accuracy (`float`): to reach. If no threshold reaches it, the large classifier answers every row.
    """
    right = torch.tensor(labels)
    sure = SINGLE_LABEL.confidence(small_logits)
    order = sure.argsort(descending=True)
    gains = (small_logits.argmax(-1) == right).long() - (large_labels == right).long()
    # Correct answers if the small classifier answers its most confident 0, 1, 2, ... rows.
    correct = (large_labels == right).sum() + torch.cat([torch.zeros(1, dtype=torch.long), gains[order].cumsum(0)])
    ends = torch.cat([sure[order][1:], torch.zeros(1)])
    # A threshold cannot separate rows of equal confidence.
    possible = torch.cat([torch.ones(1, dtype=torch.bool), sure[order] > ends])
    reached = (possible & (correct >= accuracy * len(right) - 1e-6)).nonzero()
    count = int(reached[-1]) if len(reached) else 0
    return 1.0 if count == 0 else float(ends[count - 1])
