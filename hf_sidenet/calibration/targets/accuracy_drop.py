# SPDX-License-Identifier: Apache-2.0
"""P(MainNet right) − P(routed right)."""

from dataclasses import dataclass

import torch

from ...measurement.records import ExitRecords
from ...models.errors import ArgumentError
from ...models.exit_rule import answers
from ..pvalues import NUISANCE_LEVEL, betting, binomial, paired
from .target import Risk, answers_and_reference, probably_right, smallest


@dataclass(frozen=True)
class AccuracyDrop(Risk):
    """How much more often the reference is right than the routed answers; a limit < 0 demands a gain."""

    name = "accuracy_drop"
    needs_labels = True
    has_test = True
    lowest = -1
    meaning = "P({reference} is right) − P(this model is right)"
    claim = "the accuracy drop is ≤ {limit}"

    def losses(self, records: ExitRecords, exit_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`Risk.losses`]: 1 for harmed rows, −1 for helped ones."""
        differences = paired_differences(records, exit_index)
        return differences, torch.ones_like(differences, dtype=torch.bool)

    def p_value(
        self, num_bad: int, num_helped: int, num_rows: int, test: str, losses: torch.Tensor | None = None
    ) -> float | None:
        """See [`Risk.p_value`]."""
        if test == "paired":
            return paired(num_bad, num_helped, num_rows, self.limit)
        if test == "binomial":
            return binomial(num_bad, num_rows, self.limit)
        return None if losses is None else betting(losses, self.limit)

    def needed_rows(self, level: float, test: str = "binomial", grouped: bool = False) -> int:
        """See [`Risk.needed_rows`]."""
        if grouped:
            return super().needed_rows(level, test, grouped)
        if test == "binomial":
            if self.limit <= 0:
                raise ArgumentError("test_method", f"must be 'paired' or 'betting' for {self}", test)
            return super().needed_rows(level, test)
        if test == "paired" and level <= 2 * NUISANCE_LEVEL:
            raise ArgumentError(
                "confidence_level",
                f"must leave each target a level above {2 * NUISANCE_LEVEL:g} with test "
                f"'paired', got {level:.3g}. Use 'binomial'",
            )
        if self.limit <= 0:
            return smallest(1, lambda n: self._tested(0, n, n, test, -torch.ones(n)) <= level)
        return smallest(super().needed_rows(level), lambda n: self._tested(0, 0, n, test, torch.zeros(n)) <= level)

    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """See [`Target.expected_losses`]."""
        return expected_drops(records, temperatures)

    def _expected_counts(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float]
    ) -> tuple[float, float, float]:
        both = answers_and_reference(records, exit_index)
        routed, reference = probably_right(records, both, temperatures).unbind(1)
        differs = records.task.differs(*both.unbind(1))
        return reference[differs].sum().item(), routed[differs].sum().item(), len(records)


def expected_drops(records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
    """Return by how much less likely to be right an answer at each exit is than the reference's.

    Args:
        records ([`ExitRecords`]): the rows.
        temperatures (`list[float]`): one per exit.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_exits)`: float64.
    """
    reference = probably_right(records, records.mainnet_logits.unsqueeze(1), temperatures)
    return reference - probably_right(records, records.exit_logits, temperatures)


def paired_differences(records: ExitRecords, exit_index: torch.Tensor) -> torch.Tensor:
    """Return 1 where the reference is right and the routed answer wrong, −1 the other way around, else 0.

    Args:
        records ([`ExitRecords`]): the rows.
        exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answers each row.

    Returns:
        `torch.LongTensor` of shape `(num_rows,)`.
    """
    routed = records.correct(answers(records.exit_logits, exit_index))
    return records.correct(records.mainnet_logits).long() - routed.long()
