# SPDX-License-Identifier: Apache-2.0
"""Tables of accuracy against cost: figures 2 and 4 and table 2 of the paper, and the related claims."""

from collections.abc import Sequence
from typing import Any

import torch
from choose import curve, for_cost, for_drop, sets_of_exits, test_point
from found import Run, of, with_exits
from pairs import paired_difference

from hf_sidenet.evaluation import DEFAULT_THRESHOLDS, CurvePoint
from hf_sidenet.evaluation.quality import ensemble_correct
from hf_sidenet.measurement import CURRENCIES, accuracy, correct_rows, replay
from hf_sidenet.models.exit_rule import answers


MAX_DROP = 0.005
# Values of θ in the figures.
DRAWN = (*(round(0.3 + 0.05 * i, 2) for i in range(12)), 0.875, *DEFAULT_THRESHOLDS[9:])
# MainNets trained with SideNets, and the same ones trained without.
WITH_AND_WITHOUT = {
    "sst2-joint-2": "sst2-mainnet",
    "sst2-distilled-1-2-3": "sst2-mainnet",
    "resnet18-joint-1": "resnet18-mainnet",
    "resnet18-distilled-1-2-3": "resnet18-mainnet",
    **{f"resnet{depth}-joint-1": f"resnet{depth}-mainnet" for depth in (34, 50, 152)},
    **{f"resnet{depth}-pretrained-1": f"resnet{depth}-pretrained-mainnet" for depth in (18, 34, 50, 152)},
    "distilbert-joint-1": "distilbert-mainnet",
    "bert-base-joint-4": "bert-base-mainnet",
    "bert-large-joint-8": "bert-large-mainnet",
}
# The same SideNet trained jointly, and on the frozen MainNet of another experiment: (joint, frozen, blocks before it).
JOINT_AND_FROZEN = [
    ("sst2-joint-2", "sst2-frozen", 2),
    ("sst2-distilled-1-2-3", "sst2-frozen-distilled", 2),
    ("resnet18-joint-1", "resnet18-frozen", 1),
]
# Number of SideNets in use → goal: the largest share of the FLOPs at half a point of accuracy.
AIMS = {
    "sst2-distilled-1-2-3": {1: 0.60, 2: 0.50, 3: 0.45},
    "sst2-joint-2": {1: 0.60},
    "resnet18-joint-1": {1: 0.70},
    "resnet18-distilled-1-2-3": {1: 0.70, 2: 0.70, 3: 0.70},
}
# A model with SideNets, and a smaller plain one that costs as much.
RIVALS = [
    ("sst2-joint-2", "sst2-cut-3"),
    ("sst2-distilled-1-2-3", "sst2-cut-3"),
    ("sst2-frozen", "sst2-cut-3"),
    ("sst2-distilled-1-2-3", "sst2-cut-4"),
    ("resnet34-distilled-1-2-3", "resnet18-mainnet"),
    ("bert-base-joint-4", "distilbert-mainnet"),
    ("bert-large-joint-8", "bert-base-mainnet"),
]


def runs_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return every exit of every run: its accuracy when it answers all rows, and its cost."""
    rows = []
    for run in runs:
        about = run.about
        shared = {
            "experiment": run.name,
            "task": about["task"],
            "group": about["group"],
            "seed": run.seed,
            # SideNets on cached features train until they stop.
            "epochs": None if about["group"] == "frozen" else _argument(about["arguments"], "num_train_epochs"),
            "train_rows": about["rows"]["train"],
            "validation_rows": about["rows"]["validation"],
            "test_rows": about["rows"]["test"],
            "test_fingerprint": about["fingerprints"]["test"],
            "commit": about["commit"],
            "hardware": about["hardware"],
            "seconds": about["seconds"],
        }
        whole = {f"mainnet_{currency}": about["costs"][f"mainnet_{currency}"] for currency in CURRENCIES}
        for i, layer in enumerate(run.exit_layers):
            alone = {currency: run.costs.fractions(currency)[i] for currency in CURRENCIES}
            right = accuracy(run.test.exit_logits[:, i], run.test.labels)
            rows.append({**shared, "exit": layer, "accuracy": right, **alone, **whole})
        right = accuracy(*run.logits("test"))
        rows.append({**shared, "exit": "mainnet", "accuracy": right, **dict.fromkeys(CURRENCIES, 1.0), **whole})
    return rows


def curves_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return accuracy and costs along θ: every SideNet in use alone, and all of them."""
    rows = []
    for run in with_exits(runs):
        count = len(run.exit_layers)
        for exits in dict.fromkeys([*((i,) for i in range(count)), tuple(range(count))]):
            for point in curve(run, exits, "test", DRAWN):
                rows.append({**_which(run, exits), "threshold": _theta(point, exits), **_values(point)})
    return rows


def chosen_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return, for every set of SideNets, the θ for half a point of accuracy on validation rows, and its results."""
    rows = []
    for run in with_exits(runs):
        reference = run.mainnet_correct().double().mean().item()
        for exits in sets_of_exits(len(run.exit_layers)):
            theta = for_drop(run, exits, MAX_DROP)
            on_validation, point = curve(run, exits, "validation", (theta,))[0], test_point(run, exits, theta)
            rows.append(
                {
                    **_which(run, exits),
                    "threshold": theta,
                    "validation_flops": on_validation.flops,
                    "mainnet_accuracy": reference,
                    "drop": reference - point.accuracy,
                    **_values(point),
                }
            )
    return rows


def aims_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return both sides of each goal: θ for half a point of accuracy and θ for the FLOPs, from validation rows."""
    rows = []
    for name, aims in AIMS.items():
        for run in of(runs, name).values():
            for size, aim in aims.items():
                by_drop = _cheapest_set(run, size)
                for rule, choice in (("half a point", by_drop), ("the FLOPs", _best_set(run, size, aim))):
                    if choice is None:
                        continue
                    exits, theta = choice
                    point = test_point(run, exits, theta)
                    drop = run.mainnet_correct().double().mean().item() - point.accuracy
                    shared = {**_which(run, exits), "aim": aim, "rule": rule, "threshold": theta}
                    without = _partner_accuracy(runs, run)
                    from_without = None if without is None else without - point.accuracy
                    rows.append({**shared, "drop": drop, "drop_from_without": from_without, **_values(point)})
    return rows


def differences_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return paired differences in accuracy on test rows, over seeds and rows."""
    rows = []
    for name, without in WITH_AND_WITHOUT.items():
        first = {seed: run.mainnet_correct() for seed, run in of(runs, name).items()}
        second = {seed: run.mainnet_correct() for seed, run in of(runs, without).items()}
        rows += _compared("harm", name, without, "MainNet with SideNets - MainNet without", first, second)
    for joint, frozen, layer in JOINT_AND_FROZEN:
        first, second = (
            {seed: _sidenet_correct(run, layer) for seed, run in of(runs, name).items()} for name in (joint, frozen)
        )
        rows += _compared("freezing", joint, frozen, f"SideNet {layer}, joint - frozen", first, second)
    for name in dict.fromkeys(run.name for run in with_exits(runs)):
        some = of(runs, name)
        layers = next(iter(some.values())).exit_layers
        for i, layer in enumerate(layers):
            mixed = {
                seed: ensemble_correct(run.test, [i, len(layers)], run.temperatures) for seed, run in some.items()
            }
            alone = {seed: run.mainnet_correct() for seed, run in some.items()}
            rows += _compared("ensemble", name, name, f"SideNet {layer} and MainNet - MainNet", mixed, alone)
    return rows


def rivals_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Compare a model with SideNets with a smaller plain model at its cost; θ is chosen on validation rows."""
    rows = []
    for name, rival in RIVALS:
        pairs = [(run, of(runs, rival)[seed]) for seed, run in of(runs, name).items() if seed in of(runs, rival)]
        if not pairs:
            continue
        largest = len(pairs[0][0].exit_layers)
        for size in range(1, largest + 1):
            first, second, costs, rival_costs = {}, {}, [], []
            for run, small in pairs:
                limit = small.about["costs"]["mainnet_flops"] / run.about["costs"]["mainnet_flops"]
                choice = _best_set(run, size, limit)
                if choice is None:
                    break
                exits, theta = choice
                point = test_point(run, exits, theta)
                index = replay(run.test.exit_logits, point.thresholds, run.temperatures)
                first[run.seed] = correct_rows(answers(run.test.exit_logits, index), run.test.labels)
                second[small.seed] = small.mainnet_correct()
                costs.append(point.flops)
                rival_costs.append(limit)
            else:
                for row in _compared("rival", name, rival, "at the rival's FLOPs - rival", first, second):
                    rows.append(
                        {**row, "num_sidenets": size, "flops": _mean(costs), "rival_flops": _mean(rival_costs)}
                    )
    return rows


def _cheapest_set(run: Run, size: int) -> tuple[tuple[int, ...], float]:
    """Return the set of this many SideNets and its θ that are cheapest on validation rows, for half a point there."""
    found = []
    for exits in sets_of_exits(len(run.exit_layers)):
        if len(exits) == size:
            theta = for_drop(run, exits, MAX_DROP)
            found.append((curve(run, exits, "validation", (theta,))[0].flops, exits, theta))
    return min(found)[1:]


def _partner_accuracy(runs: Sequence[Run], run: Run) -> float | None:
    """Return the accuracy of the MainNet trained with the same seed and without SideNets."""
    partner = of(runs, WITH_AND_WITHOUT.get(run.name, "")).get(run.seed)
    return None if partner is None else partner.mainnet_correct().double().mean().item()


def _best_set(run: Run, size: int, limit: float) -> tuple[tuple[int, ...], float] | None:
    """Return the set of this many SideNets and its θ with the best validation accuracy within the limit."""
    found = []
    for exits in sets_of_exits(len(run.exit_layers)):
        if len(exits) == size and (theta := for_cost(run, exits, limit)) is not None:
            found.append((-curve(run, exits, "validation", (theta,))[0].accuracy, exits, theta))
    return min(found)[1:] if found else None


def _compared(
    kind: str, name: str, other: str, what: str, first: dict[int, torch.Tensor], second: dict[int, torch.Tensor]
) -> list[dict[str, Any]]:
    """Return one row over the seeds that both have; an empty list if there are none."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return []
    left, right = (torch.stack([of_seed[seed] for seed in seeds]) for of_seed in (first, second))
    found = paired_difference(left, right)
    return [
        {
            "kind": kind,
            "experiment": name,
            "other": other,
            "what": what,
            "seeds": found.num_seeds,
            "rows": left.shape[1],
            "accuracy": left.double().mean().item(),
            "accuracy_std": _std(left),
            "other_accuracy": right.double().mean().item(),
            "other_accuracy_std": _std(right),
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "std": found.std,
        }
    ]


def _sidenet_correct(run: Run, layer: int) -> torch.Tensor:
    return correct_rows(run.test.exit_logits[:, run.exit_layers.index(layer)], run.test.labels)


def _which(run: Run, exits: tuple[int, ...]) -> dict[str, Any]:
    layers = "+".join(str(run.exit_layers[i]) for i in exits)
    return {
        "experiment": run.name,
        "group": run.about["group"],
        "seed": run.seed,
        "exits": f"after {layers}",
        "num_sidenets": len(exits),
    }


def _values(point: CurvePoint) -> dict[str, Any]:
    costs = {currency: getattr(point, currency) for currency in CURRENCIES}
    return {"accuracy": point.accuracy, "share_early": 1 - point.shares[-1], **costs}


def _theta(point: CurvePoint, exits: tuple[int, ...]) -> float:
    return point.thresholds[exits[0]]


def _argument(words: list[str], name: str) -> Any:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


def _std(correct: torch.Tensor) -> float | None:
    return correct.double().mean(1).std().item() if len(correct) > 1 else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
