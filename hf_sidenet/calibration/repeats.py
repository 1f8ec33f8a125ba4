# SPDX-License-Identifier: Apache-2.0
"""Detect leaked rows: rows that repeat earlier ones more often than fresh rows would.

Fresh rows repeat earlier ones too if texts are short. The earlier rows tell how often: a fresh row repeats one of N
with a probability of about 1 − N₁ / N, where N₁ of them occur once (Good, Biometrika 40, 1953). The upper bound
applies the exact binomial interval (Clopper and Pearson) to Esty's variance (Annals of Statistics 11, 1983), so that
its width is never zero, even if nothing repeats. Given the earlier rows, the number of repeats among fresh ones is
binomial.
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

# Of the interval and the test: fresh rows are taken for a leak in fewer than 2 of 1,000 data sets.
LEVEL = 0.001
# Standard errors between the shares of two sets of rows that count as drawn in different ways.
FAR = 4.0
# From this many texts on, it cannot be chance that all occur a multiple of some number of times.
FEWEST_TEXTS = 20


class RepeatedRowsError(ArgumentError):
    """Certification rows are not fresh."""


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat earlier ones.

    Args:
        num_rows (`int`): number of rows.
        num_repeated (`int`): number of rows that repeat an earlier row.
        num_earlier (`int`): number of earlier rows.
        expected (`float`): expected share among fresh rows.
        highest (`float`): upper bound on that share, at the level 0.001.
        p_value (`float`): p-value of this many repeats among fresh rows, at the highest share.
    """

    num_rows: int
    num_repeated: int
    num_earlier: int
    expected: float
    highest: float
    p_value: float

    @property
    def too_many(self) -> bool:
        """Whether there are more repeats than among fresh rows."""
        return self.p_value <= LEVEL

    def about(self, trusted: bool) -> dict[str, Any]:
        """Return the fields for a report.

        Args:
            trusted (`bool`): whether the rows were accepted regardless of the number of repeats.
        """
        return {**asdict(self), "trusted": trusted}


def find_repeats(earlier: Sequence[Hashable], rows: Sequence[Hashable]) -> Repeats:
    """Count the rows that repeat earlier ones, and compare with the expected number.

    Args:
        earlier (`Sequence[Hashable]`): contents of each earlier row, as drawn: neither deduplicated nor copied.
        rows (`Sequence[Hashable]`): contents of each row.

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
        # Size of a binomial sample with this variance.
        size = total if variance == 0 else min(total, expected * (1 - expected) / variance)
        highest = float(stats.beta.ppf(1 - LEVEL, expected * size + 1, (1 - expected) * size))
    num_repeated = sum(row in counts for row in rows)
    p_value = float(stats.binom.sf(num_repeated - 1, len(rows), highest))
    return Repeats(len(rows), num_repeated, total, expected, highest, p_value)


def check_fresh(
    split: Split, rows: Sequence[Hashable], known: Sequence[Hashable] = (), *, trust_rows: bool = False
) -> Repeats:
    """Reject certification rows that repeat training and design rows more often than fresh rows would.

    Args:
        split ([`Split`]): split of the validation rows.
        rows (`Sequence[Hashable]`): contents of each validation row.
        known (`Sequence[Hashable]`, *optional*): contents of each training row.
        trust_rows (`bool`, *optional*, defaults to `False`): accept too many repeats.

    Raises:
        ImportError: scipy is not installed.
        RepeatedRowsError: there are too many repeats; the message says how many there are and how many are expected.
            Or all rows occur several times, as in a file appended to itself.
    """
    times = math.gcd(*Counter(rows).values())
    # With few texts this may be chance.
    if times > 1 and len(set(rows)) >= FEWEST_TEXTS:
        raise RepeatedRowsError(
            "validation", f"must contain every row once, but contains every row {times} times: copies add no rows"
        )
    certification = split.certifying(rows)
    found = find_repeats([*known, *split.designing(rows)], certification)
    if not found.too_many and known:
        # Leaked design rows would make repeats look natural.
        of_known = find_repeats(known, certification)
        found = of_known if of_known.too_many else found
    distance = _distance(known, rows)
    if found.too_many and not trust_rows:
        why = "Training rows repeat each other less often than validation rows do: were they deduplicated? "
        raise RepeatedRowsError(
            "validation",
            f"must be rows that were not trained on, but {found.num_repeated:,} of {found.num_rows:,} certification "
            f"rows ({found.num_repeated / found.num_rows:.1%}) repeat a training or design row; of fresh rows "
            f"{found.expected:.1%} would, {found.highest:.1%} at most",
            advice=f"{why if distance < -FAR else ''}Pass fresh rows. If they are fresh, and it is the training rows "
            "that were selected by content, accept them with `trust_rows`.",
        )
    if distance > FAR:
        logger.warning(
            "Training rows repeat each other more often than validation rows do. If they were copied on purpose, pass "
            "each once: copies hide validation rows that were trained on."
        )
    return found


def _distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return by how many standard errors the first rows repeat each other more often than equally many second rows."""
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
