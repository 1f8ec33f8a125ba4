# SPDX-License-Identifier: Apache-2.0
"""What a user may ask for: `accuracy_drop<=0.01`, `selective_error<=0.05`, `disagreement<=0.02` (guaranteed), and
`flops<=0.5`, `params<=0.7`, `latency_ms<=8` (budgets)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


RISKS = ("accuracy_drop", "selective_error", "disagreement")
BUDGETS = {"flops": "flops", "params": "params", "latency_ms": "milliseconds"}
FORM = re.compile(r"\s*([a-z_]+)\s*<=\s*(\S+)\s*")


@dataclass(frozen=True)
class Target:
    """An upper limit on a risk or on a cost.

    Args:
        name (`str`):
            `"accuracy_drop"`: P(MainNet right) − P(routed right). `"selective_error"`: error among the rows that a
            SideNet answers. `"disagreement"`: routed and MainNet's answers differ (needs no labels, and bounds the
            accuracy drop). `"flops"`, `"params"`: mean cost per row as a fraction of the plain MainNet's.
            `"latency_ms"`: mean milliseconds per row.
        limit (`float`): the largest value allowed.

    Raises:
        ValueError: the name is unknown, or the limit is impossible.
    """

    name: str
    limit: float

    def __post_init__(self):
        if self.name not in (*RISKS, *BUDGETS):
            raise ValueError(f"`target` must limit one of {', '.join((*RISKS, *BUDGETS))}, got {self.name!r}.")
        if not 0 < self.limit < math.inf or (self.is_risk and self.limit >= 1):
            rule = "in (0, 1)" if self.is_risk else "finite and > 0"
            raise ValueError(f"`target`: the limit of {self.name} must be {rule}, got {self.limit!r}.")

    @property
    def is_risk(self) -> bool:
        """Whether it is a risk, which is guaranteed, and not a budget."""
        return self.name in RISKS

    @property
    def needs_labels(self) -> bool:
        """Whether it is about right and wrong answers."""
        return self.name in ("accuracy_drop", "selective_error")

    def __str__(self) -> str:
        return f"{self.name}<={self.limit:g}"


def parse_targets(target: str | Target | Sequence[str | Target]) -> list[Target]:
    """Targets from their short form; several stand in a list, or in one string with commas.

    Raises:
        ValueError: the form is wrong, or a name comes twice.

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
        raise ValueError(f"`target` must name at least one limit, and each only once, got {target!r}.")
    return found


def _parse(text: str) -> Target:
    match = FORM.fullmatch(text)
    try:
        return Target(match[1], float(match[2]))
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith("`target`"):
            raise
        raise ValueError(f"`target` must look like 'accuracy_drop<=0.01', got {text!r}.") from None
