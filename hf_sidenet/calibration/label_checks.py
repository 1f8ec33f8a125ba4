# SPDX-License-Identifier: Apache-2.0
"""Check a mapping of labels to outputs against the MainNet's answers: a wrong one would be certified like a right one.

Exact tests answer two questions:

* Is another assignment of labels to outputs right more often? The Hungarian method finds the best one on all rows,
  correcting for every other assignment, and on each half of the rows for testing on the other, without correction.
  The sign test uses the rows that exactly one of the two assignments gets right.
* Is the MainNet better than always answering the most frequent class? It is right more often than that (sign test),
  or its answers distinguish that class from the others (Fisher's test), as when it finds rare classes at the cost of
  some errors. With few rows a weak MainNet passes neither test; it is rejected only if it is not right more often, or
  if the rows show that it hardly is.
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

# Maximum probability of rejecting a mapping that is as good as any other.
ORDER_LEVEL = 0.01
# Maximum probabilities that an uninformative MainNet passes each test.
MAJORITY_LEVEL, FISHER_LEVEL = 0.05, 0.01
# With more assignments, only halves of the rows are used.
MOST_OTHERS = 10**15
# Of the rows where exactly one of MainNet and most frequent class is right, the share for which the MainNet must
# plausibly be right: an uninformative one is right on half of them.
WORTH = 0.6
# With fewer rows outside the most frequent class, the second question is not tested.
FEWEST_OTHERS = 20
TRUST = "If the labels are right and the MainNet is wrong: `trust_labels`."


class ClassOrderError(ValueError):
    """Labels do not match the MainNet's answers.

    Args:
        found (`str`): description of the mismatch.
        outputs (`Sequence[str]`, *optional*): an order of the classes that would match.
    """

    def __init__(self, found: str, outputs: Sequence[str] | None = None):
        self.found = found
        self.outputs = None if outputs is None else list(outputs)
        other = (
            "Pass another order as `labels`, the names of the MainNet's outputs"
            if outputs is None
            else f"If that is the order of its outputs: labels={self.outputs}"
        )
        super().__init__(f"{found} {other}. {TRUST}")

    def __reduce__(self) -> tuple:
        return ClassOrderError, (self.found, self.outputs)


@dataclass(frozen=True)
class Answered:
    """A MainNet's answers to labeled rows.

    Args:
        name (`str`): name of the rows, such as `"validation"`.
        answers (`torch.LongTensor` of shape `(num_rows,)`): classes that the MainNet predicts.
        labels (`torch.LongTensor` of shape `(num_rows,)`): classes in the data, negative for unlabeled rows.
    """

    name: str
    answers: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def from_logits(
        cls, name: str, logits: torch.Tensor, labels: torch.Tensor, task: Task = SINGLE_LABEL
    ) -> "Answered":
        """Make it from logits, leaving out rows without a label or with NaN logits."""
        kept = (labels >= 0) & ~logits.isnan().any(-1)
        return cls(name, task.answer(logits[kept]), labels[kept])

    @classmethod
    def from_records(cls, name: str, records: ExitRecords) -> "Answered":
        """Make it from the records of the MainNet inside the model."""
        return cls.from_logits(name, records.exit_logits[:, -1], records.labels)

    def __len__(self) -> int:
        return len(self.labels)


def check_class_order(
    rows: Sequence[Answered], classes: ClassMap, *, trust_labels: bool = False, certifies: bool = False
) -> None:
    """Reject labels that do not match the answers.

    Args:
        rows (`Sequence[Answered]`): sets of rows that do not certify. The order is tested on each set, the MainNet's
            accuracy on all of them together.
        classes ([`ClassMap`]): the mapping in use.
        trust_labels (`bool`, *optional*, defaults to `False`): skip the checks.
        certifies (`bool`, *optional*, defaults to `False`):
            Whether a certificate will depend on the labels. Then a MainNet that is no better than the most frequent
            class is rejected; otherwise a warning is logged.

    Raises:
        ClassOrderError: another order matches clearly better, or the MainNet is too weak.
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
    # The halves are chosen independently of the answers.
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
        f"the labels do not match the MainNet's answers on {len(rows):,} {rows.name} rows. The classes are mapped "
        f"{classes.how}: {taken}; with this mapping the MainNet is right on {_percent(right[0])} % of the rows. With "
        f"{better} it would be right on {_percent(right[1])} % (exact test, p = {p_value:.2g}).",
        outputs,
    )


def _check_accuracy(rows: Answered, classes: ClassMap, certifies: bool) -> None:
    counts = torch.bincount(rows.labels, minlength=len(classes.names))
    if len(rows) - counts.max() < FEWEST_OTHERS:
        return
    majority = int(counts.max(0).indices)
    right, frequent = rows.answers == rows.labels, rows.labels == majority
    won, lost = int((right & ~frequent).sum()), int((~right & frequent).sum())
    # P(as few losses, or fewer) if winning and losing were equally likely.
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
        logger.warning("Note that %s. It does distinguish that class from the others.", found)
        return
    # A MainNet that is right more often is not rejected for lack of rows.
    may_be_worth_it = won > lost and binomial(won, won + lost, WORTH) > MAJORITY_LEVEL
    if may_be_worth_it or not certifies:
        logger.warning("Note that %s.", found)
        return
    raise ClassOrderError(f"{found}. The classes are mapped {classes.how}: {classes.text()}.")


def _tells_apart(answered: torch.Tensor, labeled: torch.Tensor) -> float:
    """Return Fisher's exact p-value of "the answer is independent of the label", against positive association."""
    both, num_answered, num_labeled = (int(each.sum()) for each in (answered & labeled, answered, labeled))
    return float(require("scipy.stats", "attach").hypergeom.sf(both - 1, len(answered), num_labeled, num_answered))


def _best_order(answers: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return the assignment of labels to outputs with the most right rows; ties keep as many labels as possible."""
    table = torch.bincount(labels * count + answers, minlength=count * count).view(count, count)
    weights = table * (count + 1) + torch.eye(count, dtype=table.dtype)
    _, outputs = require("scipy.optimize", "attach").linear_sum_assignment(weights.numpy(), maximize=True)
    return torch.from_numpy(outputs)


def _better(order: torch.Tensor, answers: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the p-value of "this order is right no more often than the current one"."""
    moved, stays = order[labels] == answers, labels == answers
    won, lost = int((moved & ~stays).sum()), int((~moved & stays).sum())
    return binomial(lost, won + lost, 0.5)


def _spellings(classes: ClassMap) -> list[str]:
    """Return each class's name in the data, else the MainNet's."""
    names = list(classes.names)
    for label, index in classes.indices.items():
        names[index] = label
    return names


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def check_labeled(rows: Mapping[str, Rows], targets: Sequence[Target]) -> None:
    """Reject partially labeled splits, and unlabeled ones if a target needs labels.

    Args:
        rows (`Mapping[str, Rows]`): rows of each split, by name.
        targets (`Sequence[Target]`): the targets.

    Raises:
        ValueError: a split lacks labels; the message names it.
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
                f"{missing:,} of {len(each):,} rows have none. `disagreement` needs no labels",
            )
