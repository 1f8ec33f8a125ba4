# SPDX-License-Identifier: Apache-2.0
"""Does the guarantee hold? Draw certification rows repeatedly from a pool whose mean is the true value.

A run violates its target if the chosen θ has a risk above the limit on the whole pool. At confidence level 0.95 at
most 33 of 500 runs may (the 95 % point of a binomial with 0.05). The control is the cheapest θ that looks
good enough on the same rows. Never exiting early would always comply, so the cost is compared with the oracle's: the
cheapest point of the path that meets the target on the pool.

For pools in which one text makes up a share of all rows, a second control leaves out certification rows that are also
design rows: without that text, the rest represent a different distribution than future rows.

usage: guarantee.py [--records NAME=FILE.safetensors ...] [--only TEXT] [--runs 500] [--rows 1200] [--csv FILE]
"""

import argparse
import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from scipy.stats import binom
from transformers.utils import logging

from hf_sidenet import ExitRecords
from hf_sidenet.calibration import TESTS, Target, find_path, fit_temperatures, parse_targets, select_thresholds
from hf_sidenet.calibration.targets import paired_differences
from hf_sidenet.measurement import ExitCosts, correct_rows, replay
from hf_sidenet.models.exit_rule import answers


TARGETS = ("accuracy_drop<=0.01", "selective_error<=0.1", "disagreement<=0.03")
DESIGN_ROWS = 400
# Share of the rows that are one and the same text.
REPEATED = (0.02, 0.05, 0.08)
KNOWN_LEFT_OUT = "paired, known rows left out"
# Choices without a guarantee.
CONTROLS = ("naive", KNOWN_LEFT_OUT)
# A coarser path than the library's, for speed.
NUM_STEPS = 25


@dataclass(frozen=True)
class Outcome:
    """The outcome of many runs.

    Args:
        pool (`str`): source of the rows.
        target (`str`): the target.
        method (`str`): the test, or a control.
        runs (`int`): number of runs.
        violations (`int`): runs whose true risk is above the limit.
        refused (`int`): runs without a threshold; their cost is 1.
        median_cost (`float`): true mean FLOPs of the chosen θ, as a fraction of the MainNet's.
        oracle_cost (`float`): the cheapest point of the path that meets the target on the pool.
    """

    pool: str
    target: str
    method: str
    runs: int
    violations: int
    refused: int
    median_cost: float
    oracle_cost: float


def synthetic_pool(num_rows: int, confident_errors: float, seed: int, mended: float = 0.0) -> ExitRecords:
    """Make two SideNets and a MainNet with two classes. The SideNets are calibrated, but confident and wrong on a
    share of rows; on another share they are right and the MainNet is wrong."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> torch.Tensor:
        return torch.rand(num_rows, generator=generator)

    labels = (uniform() < 0.5).long()
    mainnet_right, trap = uniform() >= 0.1, uniform() < confident_errors
    columns = []
    for power in (0.7, 0.4):
        confidence = 0.5 + 0.499 * uniform() ** power
        right = (uniform() < confidence) & (mainnet_right | (uniform() < mended))
        confidence = torch.where(trap, 0.99 + 0.0099 * uniform(), confidence)
        columns.append(_binary(confidence, right & ~trap, labels))
    mainnet = _binary(0.6 + 0.39 * uniform(), mainnet_right, labels)
    return ExitRecords(torch.stack([*columns, mainnet], dim=1), labels, mainnet.clone())


def repeating_pool(num_rows: int, share: float, seed: int) -> tuple[ExitRecords, torch.Tensor]:
    """Make a pool without confident errors in which one text makes up a share of the rows, and return which rows these
    are: the MainNet answers them correctly, the SideNets are confident and wrong."""
    pool = synthetic_pool(num_rows, 0.0, seed, mended=1.0)
    repeated = torch.rand(num_rows, generator=torch.Generator().manual_seed(seed + 1)) < share
    exit_logits, mainnet_logits, labels = pool.exit_logits.clone(), pool.mainnet_logits.clone(), pool.labels.clone()
    labels[repeated] = 0
    exit_logits[repeated] = torch.tensor([[-3.0, 3.0], [-3.0, 3.0], [1.0, -1.0]])
    mainnet_logits[repeated] = torch.tensor([1.0, -1.0])
    return ExitRecords(exit_logits, labels, mainnet_logits), repeated


def equal_costs(num_sidenets: int) -> ExitCosts:
    """Return the costs of evenly spaced exits."""
    flops = [(i + 1) / (num_sidenets + 1) for i in range(num_sidenets + 1)]
    return ExitCosts([round(1e6 * cost) for cost in flops], flops, flops, 10**6, 1.0, 1.0, 1, "cpu")


def try_pool(
    name: str,
    pool: ExitRecords,
    target: Target,
    *,
    runs: int,
    rows: int,
    tests: tuple[str, ...],
    repeated: torch.Tensor | None = None,
    seed: int = 0,
) -> list[Outcome]:
    """Design once on separate rows, then draw certification rows from the others, with replacement."""
    design, pool = pool.select(range(DESIGN_ROWS)), pool.select(range(DESIGN_ROWS, len(pool)))
    repeated = None if repeated is None else repeated[DESIGN_ROWS:]
    costs = equal_costs(pool.num_exits - 1)
    temperatures = fit_temperatures(design.exit_logits, design.labels)
    path = find_path(design, costs.fractions("flops"), temperatures, target, num_steps=NUM_STEPS)

    @cache
    def truth(thresholds: tuple[float, ...]) -> tuple[float, float]:
        return _risk(pool, list(thresholds), temperatures, target), _cost(pool, list(thresholds), temperatures, costs)

    points = [truth(tuple(vector)) for vector in path]
    oracle = min((cost for risk, cost in points if risk <= target.limit), default=1.0)
    controls = CONTROLS if repeated is not None else CONTROLS[:1]
    chosen: dict[str, list[tuple[float, ...] | None]] = {method: [] for method in (*tests, *controls)}
    generator = torch.Generator().manual_seed(seed)
    for _ in logging.tqdm(range(runs), desc=f"{name}, {target}"):
        indices = torch.randint(len(pool), (rows,), generator=generator)
        drawn = pool.select(indices)
        certifying = dict.fromkeys(tests, drawn)
        if repeated is not None:
            certifying[KNOWN_LEFT_OUT] = pool.select(indices[~repeated[indices]])
        for method, certification in certifying.items():
            test = "paired" if method == KNOWN_LEFT_OUT else method
            selection = select_thresholds(certification, costs, path, temperatures, [target], test=test, design=design)
            chosen[method].append(tuple(selection.chosen.thresholds) if selection.chosen else None)
        good = [vector for vector in path if _risk(drawn, vector, temperatures, target) <= target.limit]
        chosen["naive"].append(min(map(tuple, good), key=lambda vector: truth(vector)[1], default=None))
    outcomes = []
    for method, vectors in chosen.items():
        true = [truth(vector) if vector is not None else (0.0, 1.0) for vector in vectors]
        outcomes.append(
            Outcome(
                pool=name,
                target=str(target),
                method=method,
                runs=runs,
                violations=sum(risk > target.limit for risk, _ in true),
                refused=sum(vector is None for vector in vectors),
                median_cost=torch.tensor([cost for _, cost in true]).median().item(),
                oracle_cost=oracle,
            )
        )
    return outcomes


def allowed(runs: int, level: float = 0.05) -> int:
    """Return the most violations that a valid guarantee shows in 95 of 100 experiments."""
    return int(binom.ppf(0.95, runs, level))


def _binary(confidence: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    gap = torch.logit(confidence) / 2
    pick = torch.where(right, labels, 1 - labels)
    return torch.stack([torch.where(pick == 0, gap, -gap), torch.where(pick == 1, gap, -gap)], dim=1)


def _risk(records: ExitRecords, thresholds: list[float], temperatures: list[float], target: Target) -> float:
    exit_index = replay(records.exit_logits, thresholds, temperatures)
    routed = answers(records.exit_logits, exit_index)
    if target.name == "accuracy_drop":
        return paired_differences(records, exit_index).double().mean().item()
    if target.name == "disagreement":
        return (routed.argmax(-1) != records.mainnet_logits.argmax(-1)).double().mean().item()
    left = exit_index < records.num_exits - 1
    return (~correct_rows(routed, records.labels)[left]).double().mean().nan_to_num(0.0).item()


def _cost(records: ExitRecords, thresholds: list[float], temperatures: list[float], costs: ExitCosts) -> float:
    return costs.average(replay(records.exit_logits, thresholds, temperatures), "flops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="*", default=[], metavar="NAME=FILE", help="real exit records")
    parser.add_argument("--only", default="", metavar="TEXT", help="only pools with this in their names")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1200, help="certification rows of a run")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    pools = {
        "synthetic, calibrated": synthetic_pool(20_000, 0.0, seed=0, mended=1.0),
        "synthetic, 0.5 % confident errors": synthetic_pool(20_000, 0.005, seed=1, mended=1.0),
        "synthetic, 3 % confident errors": synthetic_pool(20_000, 0.03, seed=2, mended=0.3),
    }
    pools = {name: (pool, None) for name, pool in pools.items()}
    for share in REPEATED:
        pools[f"synthetic, one text is {share:.0%} of the rows"] = repeating_pool(20_000, share, seed=3)
    for item in args.records:
        name, _, path = item.partition("=")
        pools[name] = (ExitRecords.load(path), None)
    pools = {name: pool for name, pool in pools.items() if args.only in name}
    header = ["pool", "target", "method", "runs", "violations", "refused", "median cost", "oracle's cost"]
    lines = [header, [":--", ":--", ":--", *["--:"] * 5]]
    outcomes = []
    for name, (pool, repeated) in pools.items():
        for target in parse_targets(",".join(TARGETS[:1] if repeated is not None else TARGETS)):
            tests = TESTS if target.name == "accuracy_drop" else ("binomial",)
            outcomes += try_pool(name, pool, target, runs=args.runs, rows=args.rows, tests=tests, repeated=repeated)
    for outcome in outcomes:
        cells = list(vars(outcome).values())
        lines.append([*map(str, cells[:6]), *(f"{value:.3f}" for value in cells[6:])])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    guaranteed = [outcome for outcome in outcomes if outcome.method not in CONTROLS]
    worst = max(guaranteed, key=lambda outcome: outcome.violations)
    print(
        f"\nAt most {allowed(args.runs)} of {args.runs} runs may violate; the worst is {worst.violations} "
        f"({worst.pool}, {worst.target}, {worst.method})."
    )
    if args.csv is not None:
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, list(vars(outcomes[0])))
            writer.writeheader()
            writer.writerows(map(vars, outcomes))
    if worst.violations > allowed(args.runs):
        raise SystemExit("The guarantee does not hold.")


if __name__ == "__main__":
    main()
