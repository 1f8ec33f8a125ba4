# SPDX-License-Identifier: Apache-2.0
"""What a target is: an upper limit on a risk, which is guaranteed, or on a cost, which is a budget."""

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
    """A risk on some rows, and how strongly they speak against its being above the limit.

    Args:
        estimate (`float`): the risk on these rows; NaN when no row counts.
        p_value (`float`): of the hypothesis that the risk is ≥ the limit.
        num_rows (`int`): rows that count: all of them, or those that a SideNet answered.
        num_bad (`int`): harmed rows, errors or disagreements.
        num_helped (`int`): rows that the MainNet answers wrongly and the routed model rightly; 0 for other risks.
    """

    estimate: float
    p_value: float
    num_rows: int
    num_bad: int
    num_helped: int


@dataclass(frozen=True)
class Target:
    """An upper limit. Which ones there are is in `TARGETS`; [`parse_targets`] reads their short form.

    Args:
        limit (`float`): the largest value allowed.

    Attributes:
        name (`str`): in the short form, `"accuracy_drop"` in `accuracy_drop<=0.01`.
        needs_labels (`bool`): whether it is about right and wrong answers.
        is_risk (`bool`): whether it is a risk, which is guaranteed, and not a budget.

    Raises:
        ValueError: the limit is impossible.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool]
    is_risk: ClassVar[bool]

    limit: float

    def __str__(self) -> str:
        return f"{self.name}<={self.limit:g}"

    @property
    def uses_labels(self) -> bool:
        """Whether labels decide which θ is chosen. A budget takes the most accurate one within it."""
        return self.needs_labels or not self.is_risk

    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """What an answer at each exit is expected to cost each row.

        Args:
            records ([`ExitRecords`]): the rows.
            temperatures (`list[float]`): one per exit.

        Returns:
            `torch.Tensor` of shape `(num_rows, num_exits)`: float64.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Risk(Target):
    """A mean over rows of a loss in {−1, 0, 1}, tested by the exact binomial test.

    Attributes:
        is_conditional (`bool`): whether only some rows count, such as those that a SideNet answers.
        has_test (`bool`): whether `test_method` says how it is tested; else it is the binomial test.
        meaning (`str`): what it is, in words with `{reference}` for the classifier that it is measured against.
        claim (`str`): that it is kept, in words with `{limit}`.
    """

    is_risk = True
    is_conditional: ClassVar[bool] = False
    has_test: ClassVar[bool] = False
    meaning: ClassVar[str]
    claim: ClassVar[str]

    def __post_init__(self):
        if not 0 < self.limit < 1:
            raise ArgumentError("target", f"must limit {self.name} to a number in (0, 1)", self.limit)

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return self.name.replace("_", " ")

    def losses(self, records: ExitRecords, exit_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each row, in {−1, 0, 1}, and which rows count.

        Args:
            records ([`ExitRecords`]): the rows.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): which exit answers each row.
        """
        raise NotImplementedError

    def measure(
        self, records: ExitRecords, exit_index: torch.Tensor, test: str, groups: torch.Tensor | None = None
    ) -> RiskEstimate:
        """Estimate and p-value on some rows.

        Args:
            records ([`ExitRecords`]): the rows, in an order fixed without looking at them.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): which exit answers each row.
            test (`str`): one of `TESTS`, where the risk has one.
            groups (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
                Number of each row's group. Then the risk is a mean over groups of the mean of their rows, and every
                test is a betting test on these means.
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
        """Of the hypothesis that the risk is ≥ the limit.

        Args:
            num_bad (`int`): rows with a loss of 1.
            num_helped (`int`): rows with a loss of −1.
            num_rows (`int`): rows that count.
            test (`str`): see [`~Risk.measure`].
            losses (`torch.Tensor` of shape `(num_rows,)`, *optional*): in their order; without them a test that
                depends on it gives `None`.
        """
        return binomial(num_bad, num_rows, self.limit)

    def _tested(
        self, num_bad: int, num_helped: int, num_rows: int, test: str, losses: torch.Tensor | None = None
    ) -> float:
        """[`~Risk.p_value`] of a test that has all that it depends on."""
        p_value = self.p_value(num_bad, num_helped, num_rows, test, losses)
        assert p_value is not None
        return p_value

    def expected(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float], num_rows: int, test: str
    ) -> RiskEstimate:
        """What [`~Risk.measure`] would say of `num_rows` rows like these, if they came out as expected.

        Args:
            records ([`ExitRecords`]): rows that certify nothing.
            exit_index (`torch.LongTensor` of shape `(num_rows,)`): which exit answers each of them.
            temperatures (`list[float]`): one per exit.
            num_rows (`int`): rows that will certify.
            test (`str`): see [`~Risk.measure`]; for `"betting"` the paired one stands in, which has no order.
        """
        scale = num_rows / len(records)
        bad, helped, counted = self._expected_counts(records, exit_index, temperatures)
        num_bad, num_helped = math.ceil(scale * bad), math.floor(scale * helped)
        num_counted = round(scale * counted)
        p_value = self._tested(num_bad, num_helped, num_counted, "paired" if test == "betting" else test)
        return RiskEstimate(_mean(num_bad - num_helped, num_counted), p_value, num_counted, num_bad, num_helped)

    def needed_rows(self, level: float, test: str = "binomial", grouped: bool = False) -> int:
        """The smallest number of rows without any loss that certifies the risk, ⌈ln δ / ln(1 − ε)⌉ for the binomial
        test.

        Args:
            level (`float`): δ, the probability of being wrong that is allowed.
            test (`str`): see [`~Risk.measure`].
            grouped (`bool`, *optional*, defaults to `False`): whether it is groups of rows that count, not rows.

        Raises:
            ValueError: no number of rows does.
        """
        exact = math.ceil(math.log(level) / math.log1p(-self.limit))
        return exact if not grouped else smallest(exact, lambda n: self._lossless_groups(n) <= level)

    def _lossless_groups(self, num_groups: int) -> float:
        return self._group_p_value(torch.zeros(num_groups), torch.ones(num_groups))

    def _group_p_value(self, loss: torch.Tensor, share: torch.Tensor) -> float:
        """From the mean loss of each group, and the share of its rows that count."""
        # A ratio of two means is below its limit where the mean of this difference is below 0.
        return betting(loss - self.limit * share, 0.0) if self.is_conditional else betting(loss, self.limit)

    def _expected_counts(
        self, records: ExitRecords, exit_index: torch.Tensor, temperatures: list[float]
    ) -> tuple[float, float, float]:
        """Rows with a loss of 1, rows with a loss of −1, and rows that count."""
        raise NotImplementedError


@dataclass(frozen=True)
class Budget(Target):
    """A mean cost per row.

    Attributes:
        currency (`str`): what is limited, one of `CURRENCIES`.
        is_time (`bool`): whether the limit is milliseconds; else it is a fraction of the plain MainNet's cost.
    """

    needs_labels = False
    is_risk = False
    currency: ClassVar[str]
    is_time: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.limit < math.inf:
            raise ArgumentError("target", f"must limit {self.name} to a finite number > 0", self.limit)

    def cost(self, fraction: float, costs: ExitCosts) -> float:
        """A fraction of the plain MainNet's cost, in the unit of the limit."""
        return fraction * costs.mainnet_milliseconds if self.is_time else fraction


def group_means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean of each group, in the order of the numbers of the groups.

    Args:
        values (`torch.Tensor` of shape `(num_rows,)`): of the rows.
        groups (`torch.LongTensor` of shape `(num_rows,)`): number of each row's group, from 0 on.

    Returns:
        `torch.Tensor` of shape `(num_groups,)`: float64.
    """
    sums = torch.bincount(groups, values.double())
    return sums / torch.bincount(groups)


def probably_right(records: ExitRecords, answered: torch.Tensor, temperatures: list[float]) -> torch.Tensor:
    """Probability that answers of shape `(num_rows, num_answers, num_labels)` are right: `(num_rows, num_answers)`."""
    return records.task.probably_right(answered, records.exit_logits[:, -1], temperatures[-1], records.labels)


def answers_and_reference(records: ExitRecords, exit_index: torch.Tensor) -> torch.Tensor:
    """Routed logits and those of the reference, of shape `(num_rows, 2, num_labels)`."""
    both = answers(records.exit_logits, exit_index), records.mainnet_logits
    wide = torch.promote_types(both[0].dtype, both[1].dtype)
    return torch.stack([logits.to(wide) for logits in both], 1)


def smallest(low: int, suffices: Callable[[int], bool]) -> int:
    """The smallest number ≥ `low` that suffices, where every larger one does."""
    high = low + 1
    while not suffices(high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


def _mean(total: float, count: int) -> float:
    return total / count if count else float("nan")
