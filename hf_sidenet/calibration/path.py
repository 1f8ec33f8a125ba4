# SPDX-License-Identifier: Apache-2.0
"""Find a path of threshold vectors, from "no row exits early" downward, on rows that certify nothing.

Each step slightly lowers θ of the SideNet that saves the most compute per expected loss. The path determines how much
is saved, never whether the guarantee holds: the test along it only requires that it was fixed beforehand (Angelopoulos
et al., arXiv 2110.01052, §2; Laufer-Goldshtein et al., arXiv 2210.07913, for paths through several thresholds).
"""

import torch

from ..measurement.records import ExitRecords
from .targets import Target


NUM_STEPS = 100
# How many steps a step looks ahead: many rows with little loss may follow a few with much.
LOOKAHEAD = 12


def find_path(
    records: ExitRecords,
    costs: list[float],
    temperatures: list[float],
    target: Target,
    num_steps: int = NUM_STEPS,
) -> list[list[float]]:
    """Find threshold vectors, each lower than the previous in one SideNet; the first is all 1.

    Args:
        records ([`ExitRecords`]): rows that certify nothing.
        costs (`list[float]`): cost of each exit, the MainNet's last, in any unit.
        temperatures (`list[float]`): one per exit.
        target ([`Target`]): risk to trade for cost; a budget is treated as `accuracy_drop`.
        num_steps (`int`, *optional*, defaults to 100): at each step, about one in `num_steps` rows exits earlier.
    """
    num_sidenets = records.num_exits - 1
    confidences = torch.stack(
        [records.task.confidence(records.exit_logits[:, i], temperatures[i]) for i in range(num_sidenets)], dim=1
    ).nan_to_num(nan=-1.0)
    losses = target.expected_losses(records, temperatures)
    cost = torch.tensor(costs, dtype=torch.float64)
    exit_index = torch.full((len(records),), num_sidenets)
    thresholds = [1.0] * num_sidenets
    order = confidences.argsort(dim=0, descending=True)
    step = max(1, round(len(records) / num_steps))
    path = [list(thresholds)]
    while True:
        best = None
        for i in range(num_sidenets):
            rows = order[:, i]
            rows = rows[(exit_index[rows] > i) & (confidences[rows, i] > 0)][: LOOKAHEAD * step]
            if len(rows) == 0:
                continue
            saved = (cost[exit_index[rows]] - cost[i]).cumsum(0)
            lost = (losses[rows, i] - losses[rows, exit_index[rows]]).cumsum(0)
            # Half a pseudo-loss keeps a few lucky rows from looking free.
            ratio = ((lost + 0.5) / saved)[min(step, len(rows)) - 1 :]
            smallest = ratio.min().item()
            if best is None or smallest < best[0]:
                best = (smallest, i, rows)
        if best is None:
            return path
        _, i, rows = best
        leaving = rows[:step]
        last = confidences[leaving[-1], i].item()
        following = confidences[rows[step], i].item() if len(rows) > step else 0.0
        thresholds[i] = _between(following, last)
        exit_index[(confidences[:, i] > thresholds[i]) & (exit_index > i)] = i
        path.append(list(thresholds))


def _between(low: float, high: float) -> float:
    """Return a θ that `high` exceeds and, if smaller, `low` does not, in float32."""
    middle = torch.tensor((low + high) / 2).item()
    if middle < high:
        return middle
    return low if low < high else torch.nextafter(torch.tensor(high), torch.tensor(0.0)).item()
