# SPDX-License-Identifier: Apache-2.0
"""Targets: an upper limit on a risk, which is guaranteed, or on a cost, which is a budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...measurement.costs import ExitCosts
from ...measurement.records import ExitRecords
from ...models.errors import ArgumentError
from ...models.exit_rule import answers
from ..pvalues import betting, binomial


@dataclass(frozen=True)
class RiskEstimate:
    """Risk on some rows, with the evidence that it is below the limit.

    Args:
        estimate (`float`): risk on these rows; NaN if no row counts.
        p_value (`float`): p-value of the hypothesis that the risk is ≥ the limit.
        num_rows (`int`): number of rows that count: all, or those that a SideNet answered.
        num_bad (`int`): number of harmed rows, errors or disagreements.
        num_helped (`int`): number of rows that the MainNet gets wrong and the routed model right; 0 for other risks.
    """

    estimate: float
    p_value: float
    num_rows: int
    num_bad: int
    num_helped: int


@dataclass(frozen=True)
class Target:
    """Upper limit. `TARGETS` lists all; [`parse_targets`] reads their short form.

    Args:
        limit (`float`): largest allowed value.

    Attributes:
        name (`str`): name in the short form, such as `"accuracy_drop"` in `accuracy_drop<=0.01`.
        needs_labels (`bool`): whether it depends on right and wrong answers.
        is_risk (`bool`): whether it is a risk, which is guaranteed, rather than a budget.

    Raises:
        ValueError: the limit is invalid.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool]
    is_risk: ClassVar[bool]

    limit: float

    def __str__(self) -> str:
        return f"{self.name}<={self.limit:g}"

    @property
    def uses_labels(self) -> bool:
        """Whether the choice of θ depends on labels. A budget chooses the most accurate θ within it."""
        return self.needs_labels or not self.is_risk

    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """Return the expected loss of an answer at each exit, for each row.

        Args:
            records ([`ExitRecords`]): the rows.
            temperatures (`list[float]`): one per exit.

        Returns:
            `torch.Tensor` of shape `(num_rows, num_exits)`: float64.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Risk(Target):
    """Mean over rows of a loss in {−1, 0, 1}, tested by the exact binomial test.

    Attributes:
        is_conditional (`bool`): whether only some rows count, such as those that a SideNet answers.
        has_test (`bool`): whether `test_method` selects its test; otherwise it is the binomial test.
        lowest (`float`): limits must be greater.
        meaning (`str`): its definition, with `{reference}` for the reference classifier.
        claim (`str`): the guarantee, with `{limit}`.
    """

    is_risk = True
    is_conditional: ClassVar[bool] = False
    has_test: ClassVar[bool] = False
    lowest: ClassVar[float] = 0
    meaning: ClassVar[str]
    claim: ClassVar[str]

    def __post_init__(self):
        if not self.lowest < self.limit < 1:
            raise ArgumentError("target", f"must limit {self.name} to a number in ({self.lowest}, 1)", self.limit)

    @property
    def starts_late(self) -> bool:
        """Whether the first points of a path, where few rows exit early, cannot meet the limit."""
        return self.is_conditional or self.limit <= 0

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return self.name.replace("_", " ")

    def losses(self, records: ExitRecords, exit_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each row, in {−1, 0, 1}, and which rows count.

        Args:
            records ([`ExitRecords`]): the rows.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answers each row.
        """
        raise NotImplementedError

    def measure(
        self, records: ExitRecords, exit_index: torch.Tensor, test: str, groups: torch.Tensor | None = None
    ) -> RiskEstimate:
        """Estimate the risk on some rows, with its p-value.

        Args:
            records ([`ExitRecords`]): the rows, in an order fixed without looking at them.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answers each row.
            test (`str`): one of `TESTS`, if the risk has a choice.
            groups (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
                Number of each row's group. The risk is then a mean over groups of their rows' means, tested by betting
                on these means.
        """
        losses, counted = self.losses(records, exit_index)
        num_bad, num_helped = int((losses[counted] == 1).sum()), int((losses[counted] == -1).sum())
        num_rows = int(counted.sum())
        if groups is None:
            p_value = self._tested(num_bad, num_helped, num_rows, test, losses[counted])
            return RiskEstimate(_mean(num_bad - num_helped, num_rows), p_value, num_rows, num_bad, num_helped)
        loss, share = group_means(losses * counted, groups), group_means(counted, groups)
        estimate = (loss.sum() / share.sum()).item()
        return RiskEstimate(estimate, self._group_p_value(loss, share), num_rows, num_bad, num_helped)

    def p_value(
        self, num_bad: int, num_helped: int, num_rows: int, test: str, losses: torch.Tensor | None = None
    ) -> float | None:
        """Return the p-value of the hypothesis that the risk is ≥ the limit.

        Args:
            num_bad (`int`): number of rows with a loss of 1.
            num_helped (`int`): number of rows with a loss of −1.
            num_rows (`int`): number of rows that count.
            test (`str`): see [`~Risk.measure`].
            losses (`torch.Tensor` of shape `(num_rows,)`, *optional*): losses in order; without them, a test that
                depends on the order returns `None`.
        """
        return binomial(num_bad, num_rows, self.limit)

    def _tested(
        self, num_bad: int, num_helped: int, num_rows: int, test: str, losses: torch.Tensor | None = None
    ) -> float:
        """Return [`~Risk.p_value`], which must not be `None`."""
        p_value = self.p_value(num_bad, num_helped, num_rows, test, losses)
        assert p_value is not None
        return p_value

    def expected(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float], num_rows: int, test: str
    ) -> RiskEstimate:
        """Predict the result of [`~Risk.measure`] on `num_rows` rows like these.

        Args:
            records ([`ExitRecords`]): rows that certify nothing.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): index of the exit that answers each row.
            temperatures (`list[float]`): one per exit.
            num_rows (`int`): rows that will certify.
            test (`str`): see [`~Risk.measure`]; `"betting"`, which depends on the order, is replaced by `"paired"`.
        """
        scale = num_rows / len(records)
        bad, helped, counted = self._expected_counts(records, exit_index, temperatures)
        num_bad, num_helped = math.ceil(scale * bad), math.floor(scale * helped)
        num_counted = round(scale * counted)
        p_value = self._tested(num_bad, num_helped, num_counted, "paired" if test == "betting" else test)
        return RiskEstimate(_mean(num_bad - num_helped, num_counted), p_value, num_counted, num_bad, num_helped)

    def needed_rows(self, level: float, test: str = "binomial", grouped: bool = False) -> int:
        """Return the smallest number of rows that certifies the risk: without a loss, or, for a limit ≤ 0, all helped.

        For the binomial test it is ⌈ln δ / ln(1 − ε)⌉.

        Args:
            level (`float`): δ, the allowed probability of error.
            test (`str`): see [`~Risk.measure`].
            grouped (`bool`, *optional*, defaults to `False`): count groups of rows instead of rows.

        Raises:
            ValueError: no number of rows is enough.
        """
        exact = math.ceil(math.log(level) / math.log1p(-self.limit)) if self.limit > 0 else 1
        return exact if not grouped else smallest(exact, lambda n: self._lossless_groups(n) <= level)

    def _lossless_groups(self, num_groups: int) -> float:
        best = torch.zeros(num_groups) if self.limit > 0 else -torch.ones(num_groups)
        return self._group_p_value(best, torch.ones(num_groups))

    def _group_p_value(self, loss: torch.Tensor, share: torch.Tensor) -> float:
        """Return the p-value for the mean loss of each group and the share of its rows that count."""
        # A ratio of two means is below its limit if the mean of this difference is below 0.
        return betting(loss - self.limit * share, 0.0) if self.is_conditional else betting(loss, self.limit)

    def _expected_counts(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float]
    ) -> tuple[float, float, float]:
        """Return the expected numbers of rows with a loss of 1, with a loss of −1, and that count."""
        raise NotImplementedError


@dataclass(frozen=True)
class Budget(Target):
    """Mean cost per row.

    Attributes:
        currency (`str`): unit of the cost, one of `CURRENCIES`.
        is_time (`bool`): whether the limit is in milliseconds instead of a fraction of the plain MainNet's cost.
    """

    needs_labels = False
    is_risk = False
    currency: ClassVar[str]
    is_time: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.limit < math.inf:
            raise ArgumentError("target", f"must limit {self.name} to a finite number > 0", self.limit)

    def cost(self, fraction: float, costs: ExitCosts) -> float:
        """Convert a fraction of the plain MainNet's cost to the unit of the limit."""
        return fraction * costs.mainnet_milliseconds if self.is_time else fraction


def group_means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return the mean of each group, in the order of their numbers.

    Args:
        values (`torch.Tensor` of shape `(num_rows,)`): values of the rows.
        groups (`torch.LongTensor` of shape `(num_rows,)`): number of each row's group, starting at 0.

    Returns:
        `torch.Tensor` of shape `(num_groups,)`: float64.
    """
    sums = torch.bincount(groups, values.double())
    return sums / torch.bincount(groups)


def probably_right(records: ExitRecords, answered: torch.Tensor, temperatures: list[float]) -> torch.Tensor:
    """Return the probabilities `(num_rows, num_answers)` that `(num_rows, num_answers, num_labels)` are right."""
    return records.task.probably_right(answered, records.exit_logits[:, -1], temperatures[-1], records.labels)


def answers_and_reference(records: ExitRecords, exit_index: torch.Tensor) -> torch.Tensor:
    """Return the logits of the routed model and the reference, of shape `(num_rows, 2, num_labels)`."""
    both = answers(records.exit_logits, exit_index), records.mainnet_logits
    wide = torch.promote_types(both[0].dtype, both[1].dtype)
    return torch.stack([logits.to(wide) for logits in both], 1)


def smallest(low: int, suffices: Callable[[int], bool]) -> int:
    """Return the smallest number ≥ `low` that suffices, if every larger one does."""
    high = low + 1
    while not suffices(high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


def _mean(total: float, count: int) -> float:
    return total / count if count else float("nan")
