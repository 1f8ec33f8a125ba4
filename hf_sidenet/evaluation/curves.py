# SPDX-License-Identifier: Apache-2.0
"""Accuracy against compute as θ moves (Morisot, arXiv 2007.13512, figures 2 and 4), from records and costs."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..io.files import replacing
from ..io.tables import markdown_table
from ..measurement.costs import CURRENCIES, ExitCosts, answered_at
from ..measurement.records import ExitRecords
from ..models.errors import ArgumentError
from ..models.exit_rule import check_thresholds


DEFAULT_THRESHOLDS = (
    *(0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85),
    *(0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0),
)  # fmt: skip


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy and mean cost at one θ. All values are fractions; costs are fractions of the plain MainNet's.

    Args:
        thresholds (`list[float]`): θ of each SideNet.
        accuracy (`float`): fraction of rows answered correctly.
        shares (`list[float]`): fraction of rows answered at each exit.
        params (`float`): mean number of parameters used per row.
        flops (`float`): mean floating-point operations per row.
        milliseconds (`float`): mean time per row.
        name (`str`, *optional*): name of a fixed point; empty on a curve.
    """

    thresholds: list[float]
    accuracy: float
    shares: list[float]
    params: float
    flops: float
    milliseconds: float
    name: str = ""


def sweep(
    records: ExitRecords,
    costs: ExitCosts,
    thresholds: Sequence[float | Sequence[float]] | None = None,
    temperatures: list[float] | None = None,
) -> list[CurvePoint]:
    """Route the records at each θ.

    Args:
        records ([`ExitRecords`]): answers of every exit.
        costs ([`ExitCosts`]): costs of the same model.
        thresholds (`Sequence`, *optional*):
            Values of θ, each a number for all SideNets or a list with one per SideNet. Defaults to 19 numbers from 0
            to 1, dense near 1.
        temperatures (`list[float]`, *optional*): one per exit; defaults to 1 each.

    Raises:
        ValueError: an argument is invalid, or records and costs have different numbers of exits.
    """
    _check_same_exits(records, costs)
    points = []
    for threshold in DEFAULT_THRESHOLDS if thresholds is None else thresholds:
        exit_index = records.route(threshold, temperatures)
        per_sidenet = check_thresholds(threshold, records.num_exits - 1)
        points.append(_point(records, costs, per_sidenet, exit_index))
    return points


def fixed_points(records: ExitRecords, costs: ExitCosts) -> list[CurvePoint]:
    """Return the plain MainNet alone (cost 1, no heads), then each SideNet answering every row.

    Raises:
        ValueError: records and costs have different numbers of exits.
    """
    _check_same_exits(records, costs)
    num_sidenets = records.num_exits - 1
    mainnet = CurvePoint(
        thresholds=[1.0] * num_sidenets,
        accuracy=records.accuracy(records.mainnet_logits),
        shares=[0.0] * num_sidenets + [1.0],
        **dict.fromkeys(CURRENCIES, 1.0),
        name="MainNet alone",
    )
    sidenets = [
        _point(
            records,
            costs,
            [0.0 if i == sidenet else 1.0 for i in range(num_sidenets)],
            torch.full((len(records),), sidenet),
            name=f"SideNet {sidenet} alone",
        )
        for sidenet in range(num_sidenets)
    ]
    return [mainnet, *sidenets]


def table(points: Sequence[CurvePoint]) -> str:
    """Return a Markdown table: accuracy and shares in percent, costs as fractions of the plain MainNet's.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ArgumentError("points", "must hold at least one point, got none")
    num_sidenets = len(points[0].thresholds)
    exits = [f"exit {i} %" for i in range(num_sidenets)]
    header = ["θ", "accuracy %", *exits, "MainNet %", "params", "FLOPs", "ms"]
    rows = [
        [
            point.name or format_thresholds(point.thresholds),
            f"{100 * point.accuracy:.2f}",
            *(f"{100 * share:.1f}" for share in point.shares),
            *(f"{getattr(point, currency):.3f}" for currency in CURRENCIES),
        ]
        for point in points
    ]
    return markdown_table(header, rows)


def format_thresholds(thresholds: Sequence[float]) -> str:
    """Return `"0.9"` if all SideNets have the same θ, else `"0.9/0.95"`."""
    texts = [f"{threshold:.10g}" for threshold in thresholds]
    return texts[0] if len(set(texts)) == 1 else "/".join(texts)


def write_csv(points: Sequence[CurvePoint], path: str | os.PathLike) -> None:
    """Write one line per point, with all values as fractions in full precision.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ArgumentError("points", "must hold at least one point, got none")
    num_exits = len(points[0].shares)
    header = [
        "name",
        *(f"threshold_{i}" for i in range(num_exits - 1)),
        "accuracy",
        *(f"share_{i}" for i in range(num_exits)),
        *CURRENCIES,
    ]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for point in points:
            costs = [getattr(point, currency) for currency in CURRENCIES]
            writer.writerow([point.name, *point.thresholds, point.accuracy, *point.shares, *costs])


def _point(
    records: ExitRecords, costs: ExitCosts, thresholds: list[float], exit_index: torch.Tensor, name: str = ""
) -> CurvePoint:
    return CurvePoint(
        thresholds=thresholds,
        **answered_at(records, costs, exit_index),
        name=name,
    )


def _check_same_exits(records: ExitRecords, costs: ExitCosts) -> None:
    if records.num_exits != costs.num_exits:
        raise ArgumentError(
            "costs",
            f"must be of the same model as `records`, with {records.num_exits} exits, got {costs.num_exits}",
        )
