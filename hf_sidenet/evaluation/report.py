# SPDX-License-Identifier: Apache-2.0
"""Accuracy and the three costs over a sweep of θ, as text, table and figure; θ is chosen on other rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io.files import replacing
from ..measurement.costs import ExitCosts
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from .curves import DEFAULT_THRESHOLDS, CurvePoint, fixed_points, format_thresholds, sweep, table, write_csv
from .plots import plot_accuracy_cost
from .provenance import provenance


@dataclass(frozen=True)
class ExitReport:
    """Accuracy and costs of a model with SideNets on test rows.

    Args:
        records ([`ExitRecords`]): the test rows.
        costs ([`ExitCosts`]): costs of an answer at each exit, for the shapes of the test rows.
        fixed (`list[CurvePoint]`): the MainNet alone, and each SideNet alone.
        points (`list[CurvePoint]`): the sweep of θ, one θ for all SideNets.
        chosen (`CurvePoint`, *optional*): the point of the sweep chosen on validation rows.
        singles (`list[CurvePoint]`): with several SideNets, each used alone, at θ chosen on validation rows.
        num_validation_rows (`int`): number of rows used to choose θ, 0 for none.
        max_accuracy_drop (`float`): allowed accuracy drop on these rows.
    """

    records: ExitRecords
    costs: ExitCosts
    fixed: list[CurvePoint]
    points: list[CurvePoint]
    chosen: CurvePoint | None
    singles: list[CurvePoint]
    num_validation_rows: int
    max_accuracy_drop: float

    @classmethod
    def from_records(
        cls,
        records: ExitRecords,
        costs: ExitCosts,
        validation: ExitRecords | None = None,
        *,
        thresholds: Sequence[float] | None = None,
        max_accuracy_drop: float = 0.005,
    ) -> "ExitReport":
        """Sweep θ over test rows. θ is chosen on `validation` only: the cheapest in FLOPs whose accuracy there is at
        most `max_accuracy_drop` below the MainNet's. This guarantees nothing about other rows.

        Args:
            records ([`ExitRecords`]): the test rows.
            costs ([`ExitCosts`]): costs of the same model.
            validation ([`ExitRecords`], *optional*): other rows, to choose θ on.
            thresholds (`Sequence[float]`, *optional*):
                Values of θ; defaults to 19 from 0 to 1. 1 is always added.
            max_accuracy_drop (`float`, *optional*, defaults to 0.005): a fraction.

        Raises:
            ValueError: `max_accuracy_drop` is negative or NaN, or a θ is invalid.
        """
        if not max_accuracy_drop >= 0:
            raise ArgumentError("max_accuracy_drop", "must be ≥ 0", max_accuracy_drop)
        thresholds = sorted({*(DEFAULT_THRESHOLDS if thresholds is None else thresholds), 1.0})
        num_sidenets = records.num_exits - 1
        chosen, singles = None, []
        if validation is not None:
            best = cheapest(validation, costs, thresholds, max_accuracy_drop)
            chosen = sweep(records, costs, [best])[0]
            if num_sidenets > 1:
                alone = [
                    [[theta if i == sidenet else 1.0 for i in range(num_sidenets)] for theta in thresholds]
                    for sidenet in range(num_sidenets)
                ]
                best = [cheapest(validation, costs, own, max_accuracy_drop) for own in alone]
                singles = sweep(records, costs, best)
        return cls(
            records=records,
            costs=costs,
            fixed=fixed_points(records, costs),
            points=sweep(records, costs, thresholds),
            chosen=chosen,
            singles=singles,
            num_validation_rows=0 if validation is None else len(validation),
            max_accuracy_drop=max_accuracy_drop,
        )

    def summary(self) -> str:
        """Return the chosen point as a sentence."""
        if self.chosen is None:
            return f"{len(self.records):,} rows, no others to choose θ on."
        point, mainnet = self.chosen, self.fixed[0]
        return (
            f"θ = {format_thresholds(point.thresholds)}, chosen on {self.num_validation_rows:,} validation rows for "
            f"at most {self.max_accuracy_drop:.1%} less accuracy: on {len(self.records):,} test rows "
            f"{100 * point.accuracy:.2f} % instead of {100 * mainnet.accuracy:.2f} %, with {point.flops:.2f} of the "
            f"MainNet's FLOPs, {point.params:.2f} of its parameters and {point.milliseconds:.2f} of its milliseconds "
            "per row."
        )

    def text(self) -> str:
        """Return the report as Markdown, without a title."""
        costs = self.costs
        parts = [
            self.summary(),
            f"MainNet alone: {costs.mainnet_params:,} parameters, {costs.mainnet_flops / 1e6:.1f} MFLOP and "
            f"{costs.mainnet_milliseconds:.3f} ms per row ({costs.num_threads} threads, {costs.device}).",
            "Fixed answers:",
            table(self.fixed),
            "Routed, one θ for all SideNets:",
            table(self.points),
        ]
        if self.singles:
            parts += ["Each SideNet in use alone, θ chosen on the validation rows:", table(self.singles)]
        return "\n\n".join(parts)

    def save(self, directory: str | os.PathLike, title: str) -> None:
        """Write `report.md`, `sweep.csv`, `accuracy_cost.png` and `test_records.safetensors`.

        Args:
            directory (`str` or `os.PathLike`): created if it does not exist.
            title (`str`): model and data.

        Raises:
            ImportError: matplotlib is not installed.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.records.save(directory / "test_records.safetensors")
        write_csv([*self.fixed, *self.points, *self.singles], directory / "sweep.csv")
        plot_accuracy_cost(self.points, self.fixed, directory / "accuracy_cost.png", title)
        page = f"# {title}\n\n{provenance()}\n\n{self.text()}\n\n![accuracy against cost](accuracy_cost.png)\n"
        with replacing(directory / "report.md") as temporary:
            temporary.write_text(page, encoding="utf-8")


def cheapest(
    records: ExitRecords,
    costs: ExitCosts,
    candidates: Sequence[float | list[float]],
    max_accuracy_drop: float,
    temperatures: list[float] | None = None,
) -> float | list[float]:
    """Return the candidate θ with the fewest FLOPs that is within `max_accuracy_drop` of the MainNet on these rows.

    Args:
        records ([`ExitRecords`]): rows to choose on.
        costs ([`ExitCosts`]): costs of the same model.
        candidates (`Sequence[float]` or `Sequence[list[float]]`): θ, one for all SideNets or a list with one each.
        max_accuracy_drop (`float`): a fraction.
        temperatures (`list[float]`, *optional*): one per exit; defaults to 1 each.

    Raises:
        ValueError: no candidate is. θ = 1 always is, unless `mainnet_logits` come from a better classifier.
    """
    # A tolerance below one row in ten million: 0.8 - 0.1 > 7 / 10 in floating point.
    floor = fixed_points(records, costs)[0].accuracy - max_accuracy_drop - 1e-7
    points = list(zip(candidates, sweep(records, costs, candidates, temperatures), strict=True))
    good = [(point.flops, theta) for theta, point in points if point.accuracy >= floor]
    if not good:
        best = max((point.accuracy for _, point in points), default=None)
        raise ArgumentError(
            "candidates",
            f"must hold a θ with an accuracy ≥ {floor:.4f} on these rows, usually 1.0, got at most {best}",
        )
    return min(good, key=lambda pair: pair[0])[1]
