# SPDX-License-Identifier: Apache-2.0
"""Ways to answer a whole batch that are not ours, as [`WholeEngine`] takes them."""

from collections.abc import Callable
from typing import Any

import torch

from ..inference.rows import Batch
from ..models.exit_rule import confidence, leaves


Answer = Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def by_first_stage(stages: Any) -> Answer:
    """Stage 0 answers everybody: a plain classifier, or the first SideNet alone.

    Args:
        stages ([`Stages`] or the like): the chain.
    """

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, logits = stages(0, None, batch.inputs)
        return logits, torch.zeros(len(batch.rows), dtype=torch.long)

    return answer


def by_whole_batch(stages: Any) -> Answer:
    """All rows of a batch go on until every one of them is sure: the policy of PABEE's and earlyon's batched
    inference. All are answered at the exit where the batch stops.

    Args:
        stages ([`Stages`] or the like): the chain.
    """
    temperatures = stages.config.temperatures

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        thresholds = thresholds.to(stages.device)
        inputs = batch.inputs
        hidden, logits = stages(0, None, inputs)
        stage = 0
        while stage < len(stages) - 1 and not _all_leave(logits, temperatures[stage], thresholds[:, stage]):
            if not batch.is_text:
                # After stage 0 one image stands for the size of all.
                inputs = {name: value[:1] for name, value in inputs.items()}
            stage += 1
            hidden, logits = stages(stage, hidden, inputs)
        return logits, torch.full((len(batch.rows),), stage)

    return answer


def _all_leave(logits: torch.Tensor, temperature: float, thresholds: torch.Tensor) -> bool:
    return bool(leaves(confidence(logits, temperature), thresholds).all())
