# SPDX-License-Identifier: Apache-2.0
"""Settings of θ, from careful to fast, along the path of the calibration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..io.fields import Rule, check_fields, is_count, is_list, is_number, is_object
from ..models.configuration_sidenet import SideNetConfig
from ..report import REPORT


NUM_SHARED = 21
COUNT = Rule("an integer ≥ 0", is_count)


@dataclass(frozen=True)
class Position:
    """One setting of θ.

    Args:
        thresholds (`tuple[float, ...]`): θ of each SideNet.
        accuracy (`float`, *optional*): measured accuracy, as a fraction; `None` if not measured.
        interval (`tuple[float, float]`, *optional*): interval of the accuracy, for test rows.
        flops (`float`, *optional*): mean FLOPs per row, as a fraction of the MainNet's.
    """

    thresholds: tuple[float, ...]
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    flops: float | None = None

    @property
    def point(self) -> tuple[float, float]:
        """Mean FLOPs and accuracy of a measured setting."""
        assert self.flops is not None
        assert self.accuracy is not None
        return self.flops, self.accuracy


@dataclass(frozen=True)
class Dial:
    """All settings, from careful to fast.

    Args:
        positions (`list[Position]`): settings, at least one.
        chosen (`int`): index of the checkpoint's own setting.
        rows (`str`, *optional*): rows of the measurement, such as `"3,000 test rows"`.
    """

    positions: list[Position]
    chosen: int
    rows: str | None

    @property
    def measured(self) -> list[Position]:
        """Settings with an accuracy."""
        return [position for position in self.positions if position.accuracy is not None]


def read_dial(config: SideNetConfig, report: Mapping[str, Any]) -> Dial:
    """Read the settings measured in a report: on test rows, else on the design rows of the calibration.

    Without either, the settings are one θ for all SideNets, from 1 to 0. The checkpoint's own θ is always included.

    Args:
        config ([`SideNetConfig`]): config of the checkpoint.
        report (`Mapping[str, Any]`): its `report.json`, empty if it has none.

    Raises:
        ValueError: the report is damaged; the message names the field.
    """
    num_sidenets = len(config.exit_layers)
    positions, rows = _on_test_rows(report, num_sidenets) or _on_design_rows(report, num_sidenets) or ([], None)
    if not positions:
        steps = NUM_SHARED - 1
        positions = [Position((1 - i / steps,) * num_sidenets) for i in range(NUM_SHARED)]
    own = tuple(config.thresholds)
    if own not in [position.thresholds for position in positions]:
        place = next((i for i, each in enumerate(positions) if sum(each.thresholds) < sum(own)), len(positions))
        positions.insert(place, Position(own))
    chosen = next(i for i, position in enumerate(positions) if position.thresholds == own)
    return Dial(positions, chosen, rows)


Measured = tuple[list[Position], str]


def _on_test_rows(report: Mapping[str, Any], num_sidenets: int) -> Measured | None:
    if report.get("evaluation") is None:
        return None
    check_fields(report, {"evaluation": Rule("an object or null", is_object)}, REPORT)
    evaluation = report["evaluation"]
    rules = {"num_rows": COUNT, "curve": _points(num_sidenets, _is_interval)}
    check_fields(evaluation, rules, f"{REPORT}, evaluation")
    positions = [
        Position(
            tuple(point["thresholds"]),
            point["accuracy"]["value"],
            (point["accuracy"]["low"], point["accuracy"]["high"]),
            point["flops"]["value"],
        )
        for point in evaluation["curve"]
    ]
    return positions, f"{evaluation['num_rows']:,} test rows"


def _on_design_rows(report: Mapping[str, Any], num_sidenets: int) -> Measured | None:
    if "path" not in report:
        return None
    rules = {
        "path": _points(num_sidenets, is_number),
        "data": Rule("an object", is_object),
        "data.num_design_rows": COUNT,
    }
    check_fields(report, rules, REPORT)
    positions = [
        Position(tuple(point["thresholds"]), point["accuracy"], flops=point["flops"]) for point in report["path"]
    ]
    return positions, f"{report['data']['num_design_rows']:,} design rows of the calibration"


def _points(num_sidenets: int, holds: Callable[[Any], bool]) -> Rule:
    def is_point(value: Any) -> bool:
        return (
            is_object(value)
            and is_list(value.get("thresholds"), is_number)
            and len(value["thresholds"]) == num_sidenets
            and holds(value.get("accuracy"))
            and holds(value.get("flops"))
        )

    words = f"a list of points with {num_sidenets} `thresholds`, `accuracy` and `flops`"
    return Rule(words, lambda value: is_list(value, is_point))


def _is_interval(value: Any) -> bool:
    return is_object(value) and all(is_number(value.get(end)) for end in ("value", "low", "high"))
