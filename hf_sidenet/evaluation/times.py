# SPDX-License-Identifier: Apache-2.0
"""How far would a mean time move on other rows, and where it is measured again?

A machine is never equally fast twice, so that an interval over rows alone says too much. Here a resample draws rows
and rounds of timing.
"""

from collections.abc import Sequence

import torch

from ..measurement.costs import ExitCosts
from .bootstrap import Interval, percentiles, resample_weights
from .weighted import weighted_means


# With fewer a resample of them says nothing about the machine.
MIN_ROUNDS = 3


def time_intervals(
    costs: ExitCosts,
    indices: Sequence[torch.Tensor],
    num_exits: int,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Mean time per row of several ways to answer the same rows, as a fraction of the plain MainNet's.

    Args:
        costs ([`ExitCosts`]): with the rounds of timing.
        indices (`Sequence[torch.LongTensor]`, each of shape `(num_rows,)`): which exit answers each row.
        num_exits (`int`): SideNets and MainNet.
        num_resamples (`int`, *optional*, defaults to 1000): of rows and rounds.
        level (`float`, *optional*, defaults to 0.95): fraction of the resamples inside an interval.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Returns:
        `list[Interval]`: one for each of `indices`; the ends are NaN with fewer than [`MIN_ROUNDS`] rounds.
    """
    at_exits = torch.stack(list(indices), 1)[..., None] == torch.arange(num_exits)  # (num_rows, num_points, num_exits)
    shares = weighted_means(at_exits.flatten(1))
    num_rows = len(at_exits)
    fractions = torch.tensor(costs.fractions("milliseconds"), dtype=torch.float64)
    ones = torch.ones(1, num_rows, dtype=torch.float64)
    values = (shares(ones).unflatten(1, at_exits.shape[1:]) @ fractions)[0].tolist()
    if len(costs.rounds) < MIN_ROUNDS:
        return [Interval(value, torch.nan, torch.nan) for value in values]
    rounds = torch.tensor(costs.rounds, dtype=torch.float64)  # (num_rounds, num_exits + 1)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for weights in resample_weights(num_rows, num_resamples, seed):
        drawn = torch.randint(len(rounds), (len(weights), len(rounds)), generator=generator)
        times = rounds[drawn].quantile(0.5, dim=1)  # (resamples, num_exits + 1), medians as they are reported
        of_exits = times[:, :-1] / times[:, -1:]
        found.append((shares(weights).unflatten(1, at_exits.shape[1:]) * of_exits[:, None]).sum(-1))
    columns = torch.cat(found).T.contiguous()
    return [Interval(value, *percentiles(column, level)) for value, column in zip(values, columns, strict=True)]
