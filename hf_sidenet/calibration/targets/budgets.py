# SPDX-License-Identifier: Apache-2.0
"""Limits on the mean cost per row, in each of the three currencies. They are not guaranteed."""

from dataclasses import dataclass

import torch

from ...measurement.records import ExitRecords
from .accuracy_drop import expected_drops
from .target import Budget


class _Budget(Budget):
    def expected_losses(self, records: ExitRecords, temperatures: list[float]) -> torch.Tensor:
        """See [`Target.expected_losses`]: the expected loss of accuracy."""
        return expected_drops(records, temperatures)


@dataclass(frozen=True)
class FlopsBudget(_Budget):
    """Mean FLOPs, as a fraction of the plain MainNet's."""

    name = currency = "flops"


@dataclass(frozen=True)
class ParamsBudget(_Budget):
    """Mean number of parameters used, as a fraction of the plain MainNet's."""

    name = currency = "params"


@dataclass(frozen=True)
class LatencyBudget(_Budget):
    """Mean milliseconds per row."""

    name = "latency_ms"
    currency = "milliseconds"
    is_time = True
