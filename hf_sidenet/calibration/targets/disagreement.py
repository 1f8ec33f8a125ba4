# SPDX-License-Identifier: Apache-2.0
"""How often the routed and the MainNet's answers differ: needs no labels, and bounds the accuracy drop."""

from dataclasses import dataclass

import torch

from ...measurement.records import ExitRecords
from ...models.exit_rule import answers
from .target import Risk


@dataclass(frozen=True)
class Disagreement(Risk):
    """How often the routed answer differs from the reference's."""

    name = "disagreement"
    needs_labels = False
    meaning = "the probability that this model and {reference} answer differently"
    claim = "the share of rows that it answers differently is ≤ {limit}"

    def losses(self, records: ExitRecords, exit_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`Risk.losses`]: 1 for rows answered differently."""
        differs = records.task.differs(answers(records.exit_logits, exit_index), records.mainnet_logits)
        return differs.long(), torch.ones_like(differs)

    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """See [`Target.expected_losses`]."""
        return records.task.differs(records.exit_logits, records.mainnet_logits.unsqueeze(1)).double()

    def _expected_counts(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float]
    ) -> tuple[float, float, float]:
        return self.losses(records, exit_index)[0].sum().item(), 0.0, len(records)
