# SPDX-License-Identifier: Apache-2.0
"""Recall of every class: a mean over all rows hides the losses of rare classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import torch

from ..io.tables import interval_text
from ..measurement.records import ExitRecords
from ..models.exit_rule import answers
from .bootstrap import Interval


# Bounds the probability of reporting a losing class when none loses.
LOSS_LEVEL = 0.05
# Share of rows that exit before the first block from which the MainNet is hardly needed.
MOST_ROWS = 0.95
SHOWN = 10


@dataclass(frozen=True)
class ClassRecall:
    """Recall of one class: the fraction of its rows answered correctly.

    Args:
        label_id (`int`): index of the class.
        name (`str`): name of the class.
        num_rows (`int`): number of its rows.
        reference (`Interval`): recall of the classifier to compare with, with Wilson's interval.
        routed (`Interval`): recall with exits, with Wilson's interval.
        num_harmed (`int`): rows that the reference gets right and the routed model wrong.
        num_helped (`int`): rows that the reference gets wrong and the routed model right.
        p_value (`float`): p-value of "the class loses nothing", by McNemar's exact test, one-sided.
        loses (`bool`): whether that is rejected at 0.05, corrected for the number of classes.
    """

    label_id: int
    name: str
    num_rows: int
    reference: Interval
    routed: Interval
    num_harmed: int
    num_helped: int
    p_value: float
    loses: bool


def class_recalls(
    records: ExitRecords,
    thresholds: list[float],
    temperatures: list[float],
    names: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> list[ClassRecall]:
    """Return the recall of each class that has rows, ordered by index.

    Args:
        records ([`ExitRecords`]): records with the reference's logits.
        thresholds (`list[float]`): θ of each SideNet.
        temperatures (`list[float]`): one per exit.
        names (`Sequence[str]`, *optional*): names of the classes; defaults to their indices.
        level (`float`, *optional*, defaults to 0.95): level of each interval.
    """
    exit_index = records.route(thresholds, temperatures)
    reference = records.correct(records.mainnet_logits)
    routed = records.correct(answers(records.exit_logits, exit_index))
    present: list[int] = records.labels.unique().tolist()
    found = []
    for label in present:
        rows = records.labels == label
        harmed, helped = (int(each.sum()) for each in (rows & reference & ~routed, rows & ~reference & routed))
        p_value = mcnemar(harmed, helped)
        found.append(
            ClassRecall(
                label_id=label,
                name=str(label) if names is None else names[label],
                num_rows=int(rows.sum()),
                reference=_share(reference[rows], level),
                routed=_share(routed[rows], level),
                num_harmed=harmed,
                num_helped=helped,
                p_value=p_value,
                loses=p_value * len(present) <= LOSS_LEVEL,
            )
        )
    return found


def losing_most(recalls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return all classes by index or, if there are more than ten, the ten that lose most, largest loss first.

    Args:
        recalls (`Sequence[Mapping]`): [`ClassRecall`] as dicts, as in a report.
    """
    if len(recalls) <= SHOWN:
        return list(recalls)
    return sorted(recalls, key=lambda each: each["routed"]["value"] - each["reference"]["value"])[:SHOWN]


def recall_rows(recalls: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return header and rows of a table, in percent, of the classes of [`losing_most`]."""
    header = ["class", "rows", "MainNet's recall %", "routed %", "harmed", "helped", "p"]
    rows = [
        [
            _one_line(each["name"]),
            f"{each['num_rows']:,}",
            _percent(each["reference"]),
            _percent(each["routed"]),
            f"{each['num_harmed']:,}",
            f"{each['num_helped']:,}",
            f"{each['p_value']:.2g}",
        ]
        for each in losing_most(recalls)
    ]
    return [header, *rows]


def recall_introduction(recalls: Sequence[Mapping[str, Any]], level: float = 0.95) -> str:
    """Return an introduction to the table; `level` is the level of the intervals."""
    which = f"The {SHOWN} of {len(recalls):,} classes that lose most" if len(recalls) > SHOWN else "Recall per class"
    return (
        f"{which}, with {100 * level:g} % intervals (Wilson). p: McNemar's exact test of rows that are "
        "harmed and helped, one-sided, not corrected for the number of classes."
    )


def recall_warnings(recalls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for every class that loses significantly."""
    return [
        f"Warning: the class {_one_line(each['name'])!r} loses: its recall is {_percent(each['routed'])} % instead of "
        f"{_percent(each['reference'])} % ({each['num_harmed']:,} rows harmed, {each['num_helped']:,} helped, "
        f"p = {each['p_value']:.2g}, significant at {LOSS_LEVEL:g} for {len(recalls):,} classes). A guarantee over "
        "all rows does not cover it."
        for each in losing_most([each for each in recalls if each["loses"]])
    ]


def certified_rows(
    records: ExitRecords,
    names: Sequence[str],
    chosen: tuple[list[float], list[float]] | None,
    repeated_rows: Mapping[str, Any],
    *,
    has_labels: bool = True,
    exit_layers: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the results on certification rows other than the evidence, for a report.

    Args:
        records ([`ExitRecords`]): records of these rows.
        names (`Sequence[str]`): names of the classes, by index.
        chosen (`tuple[list[float], list[float]]`, *optional*): θ and temperatures, if chosen.
        repeated_rows (`Mapping[str, Any]`): from [`Repeats`].
        has_labels (`bool`, *optional*, defaults to `True`): whether the data have labels; without them, recall is
            meaningless.
        exit_layers (`Sequence[int]`, *optional*): number of blocks before each SideNet.
    """
    recalls = [] if chosen is None or not has_labels else class_recalls(records, *chosen, names)
    return {
        "num_rows": len(records),
        "repeated_rows": dict(repeated_rows),
        "reference_accuracy": records.correct(records.mainnet_logits).double().mean().item(),
        "recalls": [asdict(each) for each in recalls],
        "notices": [] if chosen is None else _notices(records, *chosen, exit_layers, has_labels=has_labels),
    }


def _notices(
    records: ExitRecords,
    thresholds: Sequence[float],
    temperatures: Sequence[float],
    exit_layers: Sequence[int],
    *,
    has_labels: bool,
) -> list[str]:
    """Return what makes a certified saving say little about the MainNet, in sentences."""
    found = []
    early = (records.route(thresholds, list(temperatures)) == 0).double().mean().item()
    if exit_layers and exit_layers[0] == 0 and early >= MOST_ROWS:
        found.append(
            f"{100 * early:.1f} % of the certification rows exit before the first block: for these data, the MainNet "
            "is hardly needed."
        )
    reference = records.correct(records.mainnet_logits)
    for i in range(len(thresholds) if has_labels else 0):
        right = records.correct(records.exit_logits[:, i])
        p_value = mcnemar(int((right & ~reference).sum()), int((reference & ~right).sum()))
        if p_value <= LOSS_LEVEL / len(thresholds):
            found.append(
                f"SideNet {i} alone is right on {100 * right.double().mean().item():.1f} % of the certification rows, "
                f"the reference on {100 * reference.double().mean().item():.1f} % (McNemar's exact test: "
                f"p = {p_value:.2g}): the MainNet is undertrained for these data, and a target against it is easily "
                "met."
            )
    return found


def mcnemar(num_harmed: int, num_helped: int) -> float:
    """Return the exact P(≤ `num_helped` helped rows) if changed rows are harmed or helped with equal probability."""
    # Integer arithmetic: scipy, which has the binomial distribution, is optional here.
    changed = num_harmed + num_helped
    ways = total = 1
    for i in range(num_helped):
        ways = ways * (changed - i) // (i + 1)
        total += ways
    return total / 2**changed


def _share(right: torch.Tensor, level: float) -> Interval:
    """Return the share of correct rows with Wilson's interval, which also works for few rows and shares of 1."""
    count, value = len(right), right.double().mean().item()
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(value * (1 - value) / count + z**2 / (4 * count**2))
    return Interval(value, max(0.0, middle - half), min(1.0, middle + half))


def _percent(interval: Mapping[str, float]) -> str:
    return interval_text(interval["value"], interval["low"], interval["high"], scale=100, digits=1)


def _one_line(name: str) -> str:
    return " ".join(name.split()).replace("|", "¦")
