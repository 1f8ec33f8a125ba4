# SPDX-License-Identifier: Apache-2.0
"""Weights with which exits build on earlier ones (`SideNetConfig.chain`), fitted on rows that certify nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..measurement.records import ExitRecords
from ..models.configuration_sidenet import SideNetConfig, chain_of
from ..models.exit_rule import chain_exits, has_weights, stack_exits
from ..models.tasks import Task


FOLDS = 5
STEPS = 50
# Of the loss on held-out rows; it must also exceed its standard error.
LEAST_GAIN = 1e-3
# Smallest weight of an exit's own logits, as a fraction of the largest weight.
LEAST_SHARE = 0.01
DIGITS = 3


@dataclass(frozen=True)
class Chaining:
    """Which exits may build on earlier ones.

    Args:
        sidenets (`bool`): every SideNet after the first.
        mainnet (`bool`): the MainNet, whose answers become those of an ensemble.
    """

    sidenets: bool = False
    mainnet: bool = False

    @classmethod
    def of(cls, config: SideNetConfig) -> "Chaining":
        """Return which exits of a model do build on earlier ones.

        Args:
            config ([`SideNetConfig`]): config of the model.
        """
        *sidenets, mainnet = chain_of(config)
        return cls(has_weights(sidenets), any(mainnet))

    def fit(self, records: ExitRecords) -> list[list[float]] | None:
        """Fit the weights of each exit: those with the smallest loss, or zeros where held-out rows gain too little.

        Args:
            records ([`ExitRecords`]): each exit's own logits on labeled rows, the MainNet's last.

        Returns:
            `list[list[float]]`: `SideNetConfig.chain`, or `None` if no exit builds on another one.
        """
        own, last = records.exit_logits.detach().double(), records.num_exits - 1
        chain = [
            _weights(own[:, : i + 1], records.labels, records.task)
            if (self.mainnet if i == last else self.sidenets)
            else [0.0] * i
            for i in range(1, last + 1)
        ]
        return chain if has_weights(chain) else None


NO_CHAIN = Chaining()


def chained_records(records: ExitRecords, chain: Sequence[Sequence[float]] | None) -> ExitRecords:
    """Chain the logits of all exits; the reference stays as it is.

    Args:
        records ([`ExitRecords`]): each exit's own logits.
        chain (`Sequence[Sequence[float]]`, *optional*): `SideNetConfig.chain`.
    """
    if chain is None:
        return records
    return replace(records, exit_logits=stack_exits(chain_exits(records.exit_logits.unbind(1), chain)))


def _weights(own: torch.Tensor, labels: torch.Tensor, task: Task) -> list[float]:
    """Return the weights of earlier exits in the last one of `own (num_rows, exits, num_labels)`."""
    nothing, gains = [0.0] * (own.shape[1] - 1), []
    for fold in range(FOLDS):
        held = torch.arange(len(labels)) % FOLDS == fold
        if held.all() or not held.any():
            return nothing
        # Both with a scale of their own, which temperatures would find too.
        gains.append(_held_out_loss(own[:, -1:], labels, held, task) - _held_out_loss(own, labels, held, task))
    gain = torch.tensor(gains)
    if gain.mean() <= max(LEAST_GAIN, gain.std() / FOLDS**0.5):
        return nothing
    weights = _fit(own, labels, task)
    # An exit whose weight is almost 0 is left out.
    return [round(weight, DIGITS) for weight in (weights[:-1] / weights[-1]).tolist()]


def _held_out_loss(own: torch.Tensor, labels: torch.Tensor, held: torch.Tensor, task: Task) -> float:
    weights = _fit(own[~held], labels[~held], task)
    return task.loss(_sum(own[held], weights), labels[held]).item()


@torch.enable_grad()
def _fit(own: torch.Tensor, labels: torch.Tensor, task: Task) -> torch.Tensor:
    """Return the weights ≥ 0 of a sum of logits, scale included, with the smallest loss."""
    roots = own.new_full((own.shape[1],), 0.3)
    roots[-1] = 1.0
    roots.requires_grad_()
    optimizer = torch.optim.LBFGS([roots], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = task.loss(_sum(own, roots**2), labels)
        found.backward()
        return found

    optimizer.step(loss)
    weights = roots.detach() ** 2
    # Never without the exit's own logits.
    weights[-1] = weights[-1].clamp(min=LEAST_SHARE * weights.max())
    return weights


def _sum(own: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (own * weights.view(1, -1, 1)).sum(1)
