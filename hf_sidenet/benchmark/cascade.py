# SPDX-License-Identifier: Apache-2.0
"""Where a cascade's small model answers."""

from collections.abc import Sequence

import torch

from ..models.tasks import SINGLE_LABEL


def cascade_threshold(
    small_logits: torch.Tensor, large_labels: torch.Tensor, labels: Sequence[int], accuracy: float
) -> float:
    """The lowest threshold at which a cascade is as accurate as asked for, on these very rows. Nobody has that
    knowledge beforehand: it is in the cascade's favour.

    Args:
        small_logits (`torch.Tensor` of shape `(num_rows, num_labels)`): of the small model.
        large_labels (`torch.LongTensor` of shape `(num_rows,)`): classes that the large model gives.
        labels (`Sequence[int]`): the right ones.
        accuracy (`float`): to reach; if nothing reaches it, the large model alone is as near as it gets.
    """
    right = torch.tensor(labels)
    sure = SINGLE_LABEL.confidence(small_logits)
    order = sure.argsort(descending=True)
    gains = (small_logits.argmax(-1) == right).long() - (large_labels == right).long()
    # Right answers if the surest 0, 1, 2, ... rows are the small model's.
    correct = (large_labels == right).sum() + torch.cat([torch.zeros(1, dtype=torch.long), gains[order].cumsum(0)])
    ends = torch.cat([sure[order][1:], torch.zeros(1)])
    # A threshold cannot part rows of equal confidence.
    possible = torch.cat([torch.ones(1, dtype=torch.bool), sure[order] > ends])
    reached = (possible & (correct >= accuracy * len(right) - 1e-6)).nonzero()
    count = int(reached[-1]) if len(reached) else 0
    return 1.0 if count == 0 else float(ends[count - 1])
