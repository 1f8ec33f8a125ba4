# SPDX-License-Identifier: Apache-2.0
"""Targets: `accuracy_drop<=0.01`, `selective_error<=0.05`, `disagreement<=0.02` (guaranteed) and `flops<=0.5`,
`params<=0.7`, `latency_ms<=8` (budgets).

One class each; a new target needs a file and an entry in `TARGETS`.
"""

import re
from collections.abc import Sequence

from ...models.errors import ArgumentError
from .accuracy_drop import AccuracyDrop, paired_differences
from .budgets import FlopsBudget, LatencyBudget, ParamsBudget
from .disagreement import Disagreement
from .selective_error import SelectiveError
from .target import Budget, Risk, RiskEstimate, Target


TARGETS: dict[str, type[Target]] = {
    kind.name: kind for kind in (AccuracyDrop, SelectiveError, Disagreement, FlopsBudget, ParamsBudget, LatencyBudget)
}
FORM = re.compile(r"\s*([a-z_]+)\s*<=\s*(\S+)\s*")

__all__ = [
    "TARGETS",
    "AccuracyDrop",
    "Budget",
    "Disagreement",
    "FlopsBudget",
    "LatencyBudget",
    "ParamsBudget",
    "Risk",
    "RiskEstimate",
    "SelectiveError",
    "Target",
    "paired_differences",
    "parse_targets",
]


def parse_targets(target: str | Target | Sequence[str | Target]) -> list[Target]:
    """Parse targets from their short form, in a list or in one comma-separated string.

    Raises:
        ValueError: the form is wrong, a name is unknown or repeated, or a limit is invalid.

    Example:

    ```python
    >>> [str(target) for target in parse_targets("accuracy_drop<=0.01, flops<=0.5")]
    ['accuracy_drop<=0.01', 'flops<=0.5']
    ```
    """
    given = [target] if isinstance(target, str | Target) else list(target)
    found: list[Target] = []
    for item in given:
        found += [item] if isinstance(item, Target) else [_parse(text) for text in item.split(",")]
    names = [item.name for item in found]
    if not found or len(set(names)) != len(names):
        raise ArgumentError("target", "must have at least one limit, and each name only once", target)
    return found


def _parse(text: str) -> Target:
    match = FORM.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        name, limit = match[1], float(match[2])
    except ValueError:
        raise ArgumentError("target", "must look like 'accuracy_drop<=0.01'", text) from None
    if name not in TARGETS:
        raise ArgumentError("target", f"must limit one of {', '.join(TARGETS)}", name)
    return TARGETS[name](limit)
