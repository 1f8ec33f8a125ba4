# SPDX-License-Identifier: Apache-2.0
"""What an answer would cost at any set of candidate exits, before a SideNet is attached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..measurement.inputs import model_inputs
from ..models.mainnet import counting_flops, evaluating
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.sidenet import SideNet
from ..training.features import Candidate


@dataclass(frozen=True)
class CostModel:
    """Costs as fractions of the plain MainNet's, in one currency.

    Args:
        blocks (`Mapping[int, float]`): the MainNet up to `exit_layer` blocks.
        heads (`Mapping[Candidate, float]`): each SideNet.
    """

    blocks: Mapping[int, float]
    heads: Mapping[Candidate, float]

    def exits(self, candidates: Sequence[Candidate]) -> list[float]:
        """Cost of each exit, the MainNet's last; a later exit pays for the SideNets before it."""
        costs, spent = [], 0.0
        for candidate in candidates:
            spent += self.heads[candidate]
            costs.append(self.blocks[candidate.exit_layer] + spent)
        return [*costs, 1.0 + spent]


def cost_model(
    model: SideNetPreTrainedModel,
    batch: Mapping[str, Any],
    candidates: Sequence[Candidate],
    hidden_size: int,
    currency: str = "flops",
) -> CostModel:
    """Look at every candidate once, on a typical batch.

    Args:
        model ([`SideNetPreTrainedModel`]): its MainNet counts, its SideNets do not.
        batch (`Mapping[str, Any]`): inputs as they will come.
        candidates (`Sequence[Candidate]`): what may be attached.
        hidden_size (`int`): of the SideNets.
        currency (`str`, *optional*, defaults to `"flops"`): or `"params"`.
    """
    inputs = model_inputs(batch, model.device, model.dtype)
    points = model.exit_points(**inputs)
    if currency == "params":
        total = sum(p.numel() for p in model.mainnet.parameters() if p.is_floating_point())
    else:
        with evaluating(model), torch.no_grad(), counting_flops() as counter:
            model.mainnet(**inputs)
        total = counter.get_total_flops() / next(iter(inputs.values())).shape[0]
    heads = {candidate: _head(model, candidate, hidden_size, currency) / total for candidate in candidates}
    return CostModel({point.exit_layer: getattr(point, currency) for point in points}, heads)


def _head(model: SideNetPreTrainedModel, candidate: Candidate, hidden_size: int, currency: str) -> int:
    shape = model.config.block_shapes[candidate.exit_layer - 1]
    width, num_outputs = model.modality.pooled_size(shape, candidate.pooling), model.task.num_outputs(model.config)
    if currency == "params":
        with torch.device("meta"):
            return sum(p.numel() for p in SideNet(width, hidden_size, num_outputs).parameters())
    return 2 * (width * hidden_size + hidden_size * num_outputs)
