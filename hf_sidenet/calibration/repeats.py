# SPDX-License-Identifier: Apache-2.0
"""Do rows repeat earlier ones more often than fresh rows would? Then they are no fresh rows: they leaked.

Where texts are short, fresh rows repeat earlier ones too. How often, the earlier ones tell: a fresh row repeats one of
N with a probability of about 1 − N₁ / N, where N₁ of them are said once (Good, Biometrika 40, 1953). The upper end of
its interval takes Esty's variance (Annals of Statistics 11, 1983) as that of a binomial, for which it is exact
(Clopper and Pearson), so that it is none of zero width where nothing repeats. Given the earlier rows, the number of
repetitions among fresh ones is binomial.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers.utils import logging

from ..models.errors import ArgumentError
from ..optional import require
from .split import Split


logger = logging.get_logger(__name__)

# Of the interval, and of the test: fresh rows are taken for a leak in fewer than two of a thousand data sets.
LEVEL = 0.001
# Standard errors between the shares of two sets of rows that are said to be drawn in different ways.
FAR = 4.0
# So many texts do not all come an even number of times by chance.
FEWEST_TEXTS = 20


class RepeatedRowsError(ArgumentError):
    """Rows that must certify are not fresh."""


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat earlier ones.

    Args:
        num_rows (`int`): all of them.
        num_repeated (`int`): those that repeat an earlier row.
        num_earlier (`int`): the earlier rows.
        expected (`float`): share of fresh rows that would.
        highest (`float`): the largest share that the earlier rows allow for, at the level 0.001.
        p_value (`float`): of so many repetitions among fresh rows, with the highest share.
    """

    num_rows: int
    num_repeated: int
    num_earlier: int
    expected: float
    highest: float
    p_value: float

    @property
    def too_many(self) -> bool:
        """Whether fresh rows would not repeat so often."""
        return self.p_value <= LEVEL

    def about(self, trusted: bool) -> dict[str, Any]:
        """What a report says of them.

        Args:
            trusted (`bool`): whether they were taken although they might be too many.
        """
        return {**asdict(self), "trusted": trusted}


def find_repeats(earlier: Sequence[Hashable], rows: Sequence[Hashable]) -> Repeats:
    """Count the rows that repeat earlier ones, and hold that against what is to be expected.

    Args:
        earlier (`Sequence[Hashable]`): what each earlier row says, as they were drawn: neither deduplicated nor
            multiplied.
        rows (`Sequence[Hashable]`): what each of the rows says.

    Raises:
        ImportError: scipy is not installed.
    """
    stats = require("scipy.stats", "attach")
    counts = Counter(earlier)
    total, times = len(earlier), Counter(counts.values())
    expected = 1 - times[1] / total if total else 0.0
    highest = 1.0
    if total and expected < 1:
        variance = (times[1] * expected + 2 * times[2]) / total**2
        # As many rows of a binomial as vary like this.
        size = total if variance == 0 else min(total, expected * (1 - expected) / variance)
        highest = float(stats.beta.ppf(1 - LEVEL, expected * size + 1, (1 - expected) * size))
    num_repeated = sum(row in counts for row in rows)
    p_value = float(stats.binom.sf(num_repeated - 1, len(rows), highest))
    return Repeats(len(rows), num_repeated, total, expected, highest, p_value)


def check_fresh(
    split: Split, rows: Sequence[Hashable], known: Sequence[Hashable] = (), *, trust_rows: bool = False
) -> Repeats:
    """Refuse certification rows that repeat training and design rows more often than fresh rows would.

    Args:
        split ([`Split`]): of the validation rows.
        rows (`Sequence[Hashable]`): what each validation row says.
        known (`Sequence[Hashable]`, *optional*): what each training row says.
        trust_rows (`bool`, *optional*, defaults to `False`): refuse nothing.

    Raises:
        ImportError: scipy is not installed.
        RepeatedRowsError: there are too many, and it says how many there are and how many are to be expected; or all
            rows come several times, as in a file that was appended to itself.
    """
    times = math.gcd(*Counter(rows).values())
    # Of a few texts that may be by chance.
    if times > 1 and len(set(rows)) >= FEWEST_TEXTS:
        raise RepeatedRowsError(
            "validation", f"must hold every row once, but holds every row {times} times: copies are not other rows"
        )
    certification = split.certifying(rows)
    found = find_repeats([*known, *split.designing(rows)], certification)
    if not found.too_many and known:
        # Design rows that leaked too would make repetitions look natural.
        of_known = find_repeats(known, certification)
        found = of_known if of_known.too_many else found
    distance = _distance(known, rows)
    if found.too_many and not trust_rows:
        why = "Training rows repeat each other less often than validation rows do: were they deduplicated? "
        raise RepeatedRowsError(
            "validation",
            f"must be rows that have not been trained on, but {found.num_repeated:,} of {found.num_rows:,} "
            f"certification rows ({found.num_repeated / found.num_rows:.1%}) say what a training or design row says; "
            f"of fresh rows {found.expected:.1%} would, {found.highest:.1%} at most",
            advice=f"{why if distance < -FAR else ''}Give rows that are fresh. Where these are, and the training rows "
            "were chosen by what they say, `trust_rows` takes them.",
        )
    if distance > FAR:
        logger.warning(
            "Training rows repeat each other more often than validation rows do. Where they were copied on purpose, "
            "give them once each: among copies, validation rows that were trained on are not noticed."
        )
    return found


def _distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """How much more often the first rows repeat each other than the second do, among equally many of both; in standard
    errors."""
    size = min(len(first), len(second))
    if size == 0:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    share, variance = [], 0.0
    for rows in (first, second):
        drawn = torch.randperm(len(rows), generator=generator)[:size].tolist()
        times = Counter(Counter(rows[i] for i in drawn).values())
        share.append(1 - times[1] / size)
        variance += (times[1] * share[-1] + 2 * times[2]) / size**2
    return (share[0] - share[1]) / math.sqrt(variance) if variance else 0.0
