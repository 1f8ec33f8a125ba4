# SPDX-License-Identifier: Apache-2.0
"""Find temperatures and thresholds for targets, with the evidence behind them. Tensors only."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..measurement.costs import ExitCosts
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from .path import find_path
from .targets import Budget, Risk, Target
from .temperature import fit_temperatures
from .thresholds import Selection, level_per_target, select_thresholds


METHOD = "Learn-then-Test, fixed-sequence testing"


@dataclass(frozen=True)
class Calibration:
    """Thresholds for some targets, and how they were found.

    Args:
        targets (`list[Target]`): the targets.
        confidence_level (`float`): probability with which the guaranteed targets hold.
        test (`str`): test of `accuracy_drop`, chosen beforehand.
        temperatures (`list[float]`): one per exit, from the design rows.
        path (`list[list[float]]`): threshold vectors in the order of testing, from the design rows.
        selection ([`Selection`]): result on the certification rows.
        num_design_rows (`int`): number of design rows.
        num_certification_rows (`int`): number of certification rows.
        num_groups (`int`, *optional*): number of groups of certification rows, if given.
    """

    targets: list[Target]
    confidence_level: float
    test: str
    temperatures: list[float]
    path: list[list[float]]
    selection: Selection
    num_design_rows: int
    num_certification_rows: int
    num_groups: int | None = None

    @property
    def chosen_setting(self) -> tuple[list[float], list[float]] | None:
        """Chosen θ of each SideNet and temperature of each exit; `None` if none was chosen."""
        chosen = self.selection.chosen
        return None if chosen is None else (chosen.thresholds, self.temperatures)

    def evidence(self, **more: Any) -> dict[str, Any]:
        """Return the contents of [`SideNetConfig.calibration`], as JSON without tensors.

        Args:
            more (`Any`): further fields about the rows, the precision and the MainNet.

        Raises:
            ValueError: no threshold was chosen.
        """
        chosen = self.selection.chosen
        if chosen is None:
            raise ValueError(f"there is no evidence, because no threshold was chosen: {self.selection.reason}")
        risks = [target for target in self.targets if isinstance(target, Risk)]
        return {
            "method": METHOD if risks else "none: the most accurate within the budget",
            "targets": [
                {"target": str(target), **asdict(chosen.risks[str(target)])}
                if target.is_risk
                else {"target": str(target)}
                for target in self.targets
            ],
            "confidence_level": self.confidence_level if risks else None,
            "level_per_target": level_per_target(self.targets, self.confidence_level) if risks else None,
            "test": self._test(risks),
            "num_design_rows": self.num_design_rows,
            "num_certification_rows": self.num_certification_rows,
            "num_points_tested": len(self.selection.points),
            "certification": {
                "accuracy": chosen.accuracy,
                "shares": chosen.shares,
                "params": chosen.params,
                "flops": chosen.flops,
                "milliseconds": chosen.milliseconds,
            },
            **({} if self.num_groups is None else {"num_groups": self.num_groups}),
            **more,
        }

    def _test(self, risks: Sequence[Risk]) -> str:
        if self.num_groups is not None:
            return "betting"
        return self.test if any(target.has_test for target in risks) else "binomial"


def calibrate(
    design: ExitRecords,
    certification: ExitRecords,
    costs: ExitCosts,
    targets: Sequence[Target],
    *,
    confidence_level: float = 0.95,
    test: str = "paired",
    groups: Sequence[Hashable] | None = None,
    mainnet_temperature: float | None = None,
) -> Calibration:
    """Find temperatures and a path on the design rows, and thresholds on the certification rows.

    The guarantee holds for rows drawn independently, like the certification rows must be. For rows that come in
    groups, such as the sentences of a document, pass `groups`: then the groups must be drawn independently, and no
    group may also have design rows.

    Args:
        design ([`ExitRecords`]): rows that certify nothing.
        certification ([`ExitRecords`]): rows used for nothing else.
        costs ([`ExitCosts`]): costs of the model.
        targets (`Sequence[Target]`): see [`parse_targets`].
        confidence_level (`float`, *optional*, defaults to 0.95): confidence level of the guarantee.
        test (`str`, *optional*, defaults to `"paired"`): test of `accuracy_drop`; see [`pvalues`].
        groups (`Sequence[Hashable]`, *optional*):
            Group of each certification row. Risks are then means over groups of their rows' means, tested by betting
            on these means; `test` is ignored.
        mainnet_temperature (`float`, *optional*):
            Temperature to keep for the MainNet when the labels are its own answers, which do not determine its
            temperature. By default it is fitted like the others.

    Raises:
        TooFewRowsError: there are too few certification rows for a target, whatever they show.
        ValueError: an argument is invalid.
    """
    targets = list(targets)
    numbers = None if groups is None else _numbered(groups, len(certification))
    temperatures = fit_temperatures(design.exit_logits, design.labels, design.task)
    if mainnet_temperature is not None:
        temperatures[-1] = mainnet_temperature
    leading = next((target for target in targets if target.is_risk), targets[0])
    unit = next((target.currency for target in targets if isinstance(target, Budget)), "flops")
    path = find_path(design, costs.fractions(unit), temperatures, leading)
    selection = select_thresholds(
        certification,
        costs,
        path,
        temperatures,
        targets,
        confidence_level=confidence_level,
        test=test,
        design=design,
        groups=numbers,
    )
    num_groups = None if numbers is None else len(numbers.unique())
    counts = len(design), len(certification), num_groups
    return Calibration(targets, confidence_level, test, temperatures, path, selection, *counts)


def _numbered(groups: Sequence[Hashable], num_rows: int) -> torch.Tensor:
    """Number groups in order of first appearance, which is independent of the answers."""
    if isinstance(groups, str) or len(groups) != num_rows:
        got = f"{len(groups)} for {num_rows} rows" if not isinstance(groups, str) else repr(groups)
        raise ArgumentError("groups", f"must name the group of every certification row, got {got}")
    given: Any = groups
    listed = given.tolist() if hasattr(given, "tolist") else list(given)
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(group, len(numbers)) for group in listed])
