# SPDX-License-Identifier: Apache-2.0
"""What the model's own forward says of each row: every method of ours has to say the same."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..inference.engine import by_kind, padding_of
from ..inference.rows import Row, collate
from ..inference.stages import Stages
from ..models.exit_rule import answers, route
from ..models.modeling_base import SideNetPreTrainedModel


BATCH_SIZE = 32
ANY_EXIT = -1


class Reference:
    """Every exit's answer to every row, of the model's own forward with exits off, made once.

    Args:
        model (`Callable[[], SideNetPreTrainedModel]`): gives the model, in the precision that answers are held to.
    """

    def __init__(self, model: Callable[[], SideNetPreTrainedModel]):
        self.model = model
        self._rows: Sequence[Row] | None = None
        self._logits: torch.Tensor | None = None

    def exit_logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits of shape `(num_rows, num_exits, num_labels)`, by place.

        Args:
            rows (`Sequence[Row]`): with `place` 0, 1, 2, ...
        """
        if self._rows is not rows:
            self._rows, self._logits = rows, self._collect(rows)
        return self._logits

    def routed(
        self, thresholds: Sequence[float], temperatures: Sequence[float]
    ) -> Callable[[Sequence[Row]], tuple[torch.Tensor, torch.Tensor]]:
        """What gives class and exit of each row at this θ; see `expected` of [`Method`]."""

        def expected(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.exit_logits(rows)
            exit_index = route(logits, list(thresholds), list(temperatures))
            return answers(logits, exit_index).argmax(-1), exit_index

        return expected

    def mainnet(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """The MainNet's class of each row, at any exit."""
        labels = self.exit_logits(rows)[:, -1].argmax(-1)
        return labels, torch.full_like(labels, ANY_EXIT)

    def _collect(self, rows: Sequence[Row]) -> torch.Tensor:
        model = self.model()
        every_exit = partial(model, thresholds=1.0)
        return logits_by_place(lambda inputs: every_exit(**inputs).exit_logits, Stages(model), rows)


@torch.inference_mode()
def logits_by_place(
    call: Callable[[dict[str, torch.Tensor]], torch.Tensor], stages: Any, rows: Sequence[Row]
) -> torch.Tensor:
    """What a model says of rows, in float32 on the host, by place.

    Args:
        call (`Callable[[dict[str, torch.Tensor]], torch.Tensor]`): inputs of a batch → logits `(rows, ...)`.
        stages ([`Stages`] or the like): says where inputs go, how they are padded and in which precision.
        rows (`Sequence[Row]`): with `place` 0, 1, 2, ...
    """
    found: dict[int, torch.Tensor] = {}
    for alike in by_kind(sorted(rows, key=lambda row: row.length)):
        for i in range(0, len(alike), BATCH_SIZE):
            batch = collate(alike[i : i + BATCH_SIZE], padding_of(stages), stages.device)
            # Images come in the precision of the checkpoint.
            inputs = {k: v.to(stages.dtype) if v.is_floating_point() else v for k, v in batch.inputs.items()}
            logits = call(inputs).float().cpu()
            found |= {row.place: each for row, each in zip(batch.rows, logits, strict=True)}
    return torch.stack([found[row.place] for row in rows])
