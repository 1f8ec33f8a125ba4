# SPDX-License-Identifier: Apache-2.0
"""Error among the rows that a SideNet answers."""

from dataclasses import dataclass

import torch

from ...measurement.records import ExitRecords
from ...models.exit_rule import answers
from .target import Risk, answers_and_reference, probably_right


@dataclass(frozen=True)
class SelectiveError(Risk):
    """How often a SideNet's answer is wrong. Rows that the MainNet answers do not count."""

    name = "selective_error"
    needs_labels = True
    is_conditional = True
    meaning = "the probability that a SideNet's answer is wrong"
    claim = "the error among rows that a SideNet answers is ≤ {limit}"

    def losses(self, records: ExitRecords, exit_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`Risk.losses`]: 1 for errors."""
        wrong = ~records.correct(answers(records.exit_logits, exit_index))
        return wrong.long(), exit_index < records.num_exits - 1

    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """See [`Target.expected_losses`]."""
        losses = 1 - probably_right(records, records.exit_logits, temperatures)
        losses[:, -1] = 0.0
        return losses

    def _expected_counts(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float]
    ) -> tuple[float, float, float]:
        left = exit_index < records.num_exits - 1
        routed = probably_right(records, answers_and_reference(records, exit_index), temperatures)[:, 0]
        return (1 - routed)[left].sum().item(), 0.0, int(left.sum())
