# SPDX-License-Identifier: Apache-2.0
"""A mapping of labels to outputs, held against the MainNet's answers: a wrong one would be certified like a right one.

Two questions, both answered by exact tests:

* Is another assignment of labels to outputs right more often? The best one is found by the Hungarian method, on all
  rows, where every other assignment counts as a try, and on one half of the rows for the other, where none does. The
  sign test is on the rows that one assignment gets right and the other wrong.
* Does the MainNet know more than which class is the most frequent one? It is right more often than that class is the
  label (sign test), or its answers tell that class from the others (Fisher's test), as where rare classes are found at
  the price of some errors. Few rows show neither of a weak MainNet: it is refused where it is not right more often, or
  where the rows show that it is hardly so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers.utils import logging

from ..data.classes import ClassMap, listed
from ..data.rows import Rows
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from ..models.tasks import NO_LABEL, SINGLE_LABEL, Task
from ..optional import require
from .pvalues import binomial
from .targets import Target


logger = logging.get_logger(__name__)

# A mapping that is as good as any other is refused so often at most.
ORDER_LEVEL = 0.01
# A MainNet that knows nothing passes so often at most, by one of the two tests or the other.
MAJORITY_LEVEL, FISHER_LEVEL = 0.05, 0.01
# More assignments are only tried on halves of the rows.
MOST_OTHERS = 10**15
# Of the rows on which the MainNet and the most frequent class are not both right or both wrong, the share that the
# MainNet must be able to win: one that knows nothing wins half of them.
WORTH = 0.6
# Fewer rows of other classes than the most frequent one say nothing about the second question.
FEWEST_OTHERS = 20
TRUST = "If the labels are right and the MainNet is not: `trust_labels`."


class ClassOrderError(ValueError):
    """Labels do not fit the MainNet's answers.

    Args:
        found (`str`): what was found.
        outputs (`Sequence[str]`, *optional*): an order of the classes that would fit.
    """

    def __init__(self, found: str, outputs: Sequence[str] | None = None):
        self.found = found
        self.outputs = None if outputs is None else list(outputs)
        other = (
            "Another order is given by `labels`, the names of the MainNet's outputs"
            if outputs is None
            else f"If that is the order of its outputs: labels={self.outputs}"
        )
        super().__init__(f"{found} {other}. {TRUST}")

    def __reduce__(self) -> tuple:
        return ClassOrderError, (self.found, self.outputs)


@dataclass(frozen=True)
class Answered:
    """What a MainNet answers to labeled rows.

    Args:
        name (`str`): of the rows, as `"validation"`.
        answers (`torch.LongTensor` of shape `(num_rows,)`): the MainNet's classes.
        labels (`torch.LongTensor` of shape `(num_rows,)`): those of the data; negative where there is none.
    """

    name: str
    answers: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def from_logits(
        cls, name: str, logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL
    ) -> "Answered":
        """The answers of logits, without the rows that have no label or whose logits are no numbers."""
        kept = (labels >= 0) & ~logits.isnan().any(-1)
        return cls(name, task.answer(logits[kept]), labels[kept])

    @classmethod
    def from_records(cls, name: str, records: ExitRecords) -> "Answered":
        """The answers of the MainNet inside the model."""
        return cls.from_logits(name, records.exit_logits[:, -1], records.labels)

    def __len__(self) -> int:
        return len(self.labels)


def check_class_order(
    rows: Sequence[Answered], classes: ClassMap, *, trust_labels: bool = False, certifies: bool = False
) -> None:
    """Refuse labels that do not fit the answers.

    Args:
        rows (`Sequence[Answered]`): none of which certifies. The order is tested on each of them, the MainNet's
            accuracy on all of them together.
        classes ([`ClassMap`]): the mapping that was taken.
        trust_labels (`bool`, *optional*, defaults to `False`): refuse nothing.
        certifies (`bool`, *optional*, defaults to `False`):
            Whether something that depends on the labels is to be certified. Then a MainNet that knows no more than the
            most frequent class is refused; else a warning says so.

    Raises:
        ClassOrderError: another order fits clearly better, or the MainNet knows too little.
        ImportError: scipy is not installed.
    """
    if trust_labels:
        return
    for each in rows:
        _check_order(each, classes)
    columns = (torch.cat([getattr(each, name) for each in rows]) for name in ("answers", "labels"))
    _check_accuracy(Answered(" and ".join(each.name for each in rows), *columns), classes, certifies)


def _check_order(rows: Answered, classes: ClassMap) -> None:
    count = len(classes.names)
    best = _best_order(rows.answers, rows.labels, count)
    present = rows.labels.unique().tolist()
    if all(best[label] == label for label in present):
        return
    # The halves are chosen without looking at the answers.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    others = math.perm(count, len(present)) - 1
    p_values = [_better(best, rows.answers, rows.labels) * others] if others <= MOST_OTHERS else []
    for chosen, tested in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        other = _best_order(rows.answers[chosen], rows.labels[chosen], count)
        p_values.append(_better(other, rows.answers[tested], rows.labels[tested]))
    p_value = len(p_values) * min(p_values)
    if p_value > ORDER_LEVEL:
        return
    names = _spellings(classes)
    moved = [label for label in present if best[label] != label]
    taken = listed([f"{names[label]} → {label}" for label in moved])
    better = listed([f"{names[label]} → {best[label]}" for label in moved])
    right = [(rows.answers == order[rows.labels]).double().mean().item() for order in (torch.arange(count), best)]
    outputs = [""] * count
    for label in range(count):
        outputs[best[label]] = names[label]
    raise ClassOrderError(
        f"the labels do not fit the MainNet's answers on {len(rows):,} {rows.name} rows. The classes are taken "
        f"{classes.how}: {taken}; so the MainNet is right on {_percent(right[0])} % of the rows. With {better} it "
        f"would be right on {_percent(right[1])} % (exact test, p = {p_value:.2g}).",
        outputs,
    )


def _check_accuracy(rows: Answered, classes: ClassMap, certifies: bool) -> None:
    counts = torch.bincount(rows.labels, minlength=len(classes.names))
    if len(rows) - counts.max() < FEWEST_OTHERS:
        return
    majority = int(counts.max(0).indices)
    right, frequent = rows.answers == rows.labels, rows.labels == majority
    won, lost = int((right & ~frequent).sum()), int((~right & frequent).sum())
    # P(that many of them lost, or fewer) if winning and losing were equally probable.
    p_value = binomial(lost, won + lost, 0.5)
    if p_value <= MAJORITY_LEVEL:
        return
    how = "not" if won <= lost else "not clearly"
    found = (
        f"the MainNet's accuracy on the {rows.name} rows is {how} above the most frequent class's: it is right on "
        f"{_percent(right.double().mean().item())} % of {len(rows):,} rows, and {_spellings(classes)[majority]!r} is "
        f"the label of {_percent(frequent.double().mean().item())} % (exact test, p = {p_value:.2g})"
    )
    if _tells_apart(rows.answers != majority, ~frequent) <= FISHER_LEVEL:
        logger.warning("Notice that %s. It does tell that class from the others.", found)
        return
    # Too few rows to tell are no reason to refuse one that is right more often.
    may_be_worth_it = won > lost and binomial(won, won + lost, WORTH) > MAJORITY_LEVEL
    if may_be_worth_it or not certifies:
        logger.warning("Notice that %s.", found)
        return
    raise ClassOrderError(f"{found}. The classes are taken {classes.how}: {classes.text()}.")


def _tells_apart(answered: torch.Tensor, labeled: torch.Tensor) -> float:
    """Fisher's exact p-value of "what is answered does not depend on the label", against "both go together"."""
    both, num_answered, num_labeled = (int(each.sum()) for each in (answered & labeled, answered, labeled))
    return float(require("scipy.stats", "attach").hypergeom.sf(both - 1, len(answered), num_labeled, num_answered))


def _best_order(answers: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The output of each label with which most rows are right; where several are, as many labels as can be stay."""
    table = torch.bincount(labels * count + answers, minlength=count * count).view(count, count)
    weights = table * (count + 1) + torch.eye(count, dtype=table.dtype)
    _, outputs = require("scipy.optimize", "attach").linear_sum_assignment(weights.numpy(), maximize=True)
    return torch.from_numpy(outputs)


def _better(order: torch.Tensor, answers: torch.Tensor, labels: torch.Tensor) -> float:
    """p-value of "this order is right no more often than the one that was taken"."""
    moved, stays = order[labels] == answers, labels == answers
    won, lost = int((moved & ~stays).sum()), int((~moved & stays).sum())
    return binomial(lost, won + lost, 0.5)


def _spellings(classes: ClassMap) -> list[str]:
    """How the data call each class, else the MainNet."""
    names = list(classes.names)
    for label, index in classes.indices.items():
        names[index] = label
    return names


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def check_labeled(rows: Mapping[str, Rows], targets: Sequence[Target]) -> None:
    """Refuse splits of which only some rows have labels, and those without any where a target needs them.

    Args:
        rows (`Mapping[str, Rows]`): by the name of the split.
        targets (`Sequence[Target]`): what is asked for.

    Raises:
        ValueError: names the split.
    """
    needing = ", ".join(str(target) for target in targets if target.needs_labels)
    labeled = any(each.has_labels for each in rows.values())
    for split, each in rows.items():
        missing = sum(label == NO_LABEL for label in each.labels)
        if missing and (needing or labeled):
            raise ArgumentError(
                split,
                "must have labels "
                f"{f'for {needing}' if needing else 'in every row or in none'}, but "
                f"{missing:,} of {len(each):,} rows have none. `disagreement` needs none, of "
                "any row",
            )
