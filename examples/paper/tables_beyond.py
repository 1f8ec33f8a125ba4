# SPDX-License-Identifier: Apache-2.0
"""Tables beyond the paper: other exit policies on the same logits, and θ with and without a guarantee."""

from collections.abc import Sequence
from typing import Any

import torch
from choose import for_drop
from found import Run, with_exits
from policies import POLICIES, leaves_at, settings_of

from hf_sidenet.calibration import TooFewRowsError, calibrate, split_rows
from hf_sidenet.calibration.targets import AccuracyDrop
from hf_sidenet.measurement import ExitRecords, accuracy, correct_rows, replay
from hf_sidenet.models.exit_rule import answers


# Mean cost per row, as a fraction of the MainNet's FLOPs, at which policies are compared.
BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8)
MIN_SIDENETS = 3
GUARANTEED = ("sst2-joint-2", "sst2-distilled-1-2-3", "sst2-frozen", "resnet18-joint-1", "resnet18-distilled-1-2-3")
LIMIT = 0.01
NUM_SPLITS = 10
DESIGN_SHARE = 0.25


def policies_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Compare exit policies at equal cost: each with the setting chosen on validation rows within a budget.

    Patience has only a few settings, so the budgets in addition to the round ones are the costs of its settings.
    """
    rows = []
    for run in (run for run in with_exits(runs) if len(run.exit_layers) >= MIN_SIDENETS):
        points = {policy: _points(run, policy) for policy in POLICIES}
        patient = [(f"patience {setting}", flops) for _, flops, setting in points["patience"]]
        for kind, budget in [*(("budget", budget) for budget in BUDGETS), *patient]:
            for policy, found in points.items():
                within = [point for point in found if point[1] <= budget + 1e-9]
                if not within:
                    continue
                setting = max(within, key=lambda point: (point[0], -point[1]))[2]
                index = leaves_at(run.test.exit_logits, policy, setting, run.temperatures)
                rows.append(
                    {
                        "experiment": run.name,
                        "seed": run.seed,
                        "kind": kind,
                        "budget": budget,
                        "policy": policy,
                        "setting": setting,
                        "accuracy": _accuracy(run.test, index),
                        "mainnet_accuracy": accuracy(run.test.mainnet_logits, run.test.labels),
                        "flops": run.costs.average(index, "flops"),
                    }
                )
    return rows


def guarantee_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return θ for at most one point of accuracy, over random splits of the validation rows: chosen naively on all of
    them, and certified on three quarters with a path found on the rest."""
    rows = []
    for run in (run for run in with_exits(runs) if run.name in GUARANTEED):
        exits = tuple(range(len(run.exit_layers)))
        naive = [for_drop(run, exits, LIMIT)] * len(exits)
        rows.append(_guarantee_row(run, 0, "naive", naive))
        for seed in range(NUM_SPLITS):
            split = split_rows(len(run.validation), 1 - DESIGN_SHARE, seed)
            design, certification = (run.validation.select(part) for part in (split.design, split.certification))
            try:
                made = calibrate(design, certification, run.costs, [AccuracyDrop(LIMIT)])
            except TooFewRowsError:
                rows.append(_guarantee_row(run, seed, "guaranteed", None))
                continue
            chosen = made.selection.chosen
            thresholds = None if chosen is None else chosen.thresholds
            rows.append(_guarantee_row(run, seed, "guaranteed", thresholds, made.temperatures))
    return rows


def _guarantee_row(
    run: Run,
    split: int,
    method: str,
    thresholds: list[float] | None,
    temperatures: list[float] | None = None,
) -> dict[str, Any]:
    """`thresholds` is `None` if nothing was certified: then the plain MainNet answers."""
    index = replay(run.test.exit_logits, thresholds or 1.0, temperatures or run.temperatures)
    whole = correct_rows(run.test.mainnet_logits, run.test.labels).double()
    losses = whole - correct_rows(answers(run.test.exit_logits, index), run.test.labels).double()
    return {
        "experiment": run.name,
        "seed": run.seed,
        "split": split,
        "method": method,
        "limit": LIMIT,
        "refused": int(thresholds is None),
        "drop": losses.mean().item(),
        "standard_error": losses.std().item() / len(losses) ** 0.5,
        "flops": 1.0 if thresholds is None else run.costs.average(index, "flops"),
    }


def _points(run: Run, policy: str) -> list[tuple[float, float, Any]]:
    """Return (accuracy, FLOPs, setting) of a policy on validation rows."""
    found = []
    for setting in settings_of(policy, len(run.exit_layers)):
        index = leaves_at(run.validation.exit_logits, policy, setting, run.temperatures)
        found.append((_accuracy(run.validation, index), run.costs.average(index, "flops"), setting))
    return found


def _accuracy(records: ExitRecords, index: torch.Tensor) -> float:
    return accuracy(answers(records.exit_logits, index), records.labels)
