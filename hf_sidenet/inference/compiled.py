# SPDX-License-Identifier: Apache-2.0
"""Stages compiled separately. No row exits inside a stage, so each is one graph."""

from typing import Any

import torch
import torch.compiler.config
from torch.nn import functional as F

from ..models.row_inputs import follows_tokens
from .engine import padding_of
from .precision import precision_of
from .rows import check_tokens
from .stages import Stages


# For one forward function shared by all stages: 1 row and 1 token get separate graphs.
GRAPHS_PER_STAGE = 16
# Texts are padded to a multiple of this on a GPU, where every shape is a separate CUDA graph.
LENGTH_STEP = 32


class CompiledStages:
    """Compiled version of [`Stages`].

    On a CPU, shapes are dynamic: a few graphs serve all. On a GPU, rows and lengths are padded to a few sizes (powers
    of two, multiples of 32), each recorded as a CUDA graph (`mode="reduce-overhead"`).

    Args:
        stages ([`Stages`]): the chain.
        options (`dict[str, Any]`): arguments of `torch.compile` that override these. `dynamic=False` pads sizes.
    """

    def __init__(self, stages: Stages, options: dict[str, Any]):
        on_gpu = stages.device.type == "cuda"
        defaults = {"dynamic": False, "mode": "reduce-overhead"} if on_gpu else {"dynamic": True}
        options = {"fullgraph": True, **defaults, **options}
        self.filled = options["dynamic"] is False
        self.recorded = on_gpu
        self.stages = stages
        self.pad = padding_of(stages)
        self.config = stages.config
        self.device = stages.device
        self.dtype = stages.dtype
        self.input_names = stages.input_names
        self.max_length = stages.max_length
        self.modality = stages.modality
        self.task = stages.task
        self.precision = precision_of(stages)
        # The stages share one forward function, so their graphs count toward one limit.
        limit = GRAPHS_PER_STAGE * len(stages)
        torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, limit)
        self.modules = [torch.compile(module, **options) for module in stages.modules]
        self._forms: set[tuple[int, tuple[int, ...]]] = set()

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def num_forms(self) -> int:
        """Number of stages and sizes run so far for which a graph is compiled."""
        return len(self._forms)

    def check_mode(self) -> None:
        """See [`StageChain`]."""
        self.stages.check_mode()

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """See [`Stages`]."""
        self.check_mode()
        main = self.modality.main_input(inputs) or next(iter(inputs))
        rows, length = len(inputs[main] if hidden is None else hidden), inputs[main].shape[1]
        if self.filled:
            hidden, inputs = self._fill(hidden, inputs, rows, length)
        size = tuple((inputs[main] if hidden is None else hidden).shape[:2])
        # With dynamic shapes, only a size of 1 has a graph of its own.
        self._forms.add((index, size if self.filled else tuple(min(each, 2) for each in size)))
        module = self.modules[index]
        result = module(**inputs) if hidden is None else module(hidden, **inputs)
        state, logits = result if isinstance(result, tuple) else (None, result)
        if not self.filled:
            return state, logits
        if state is not None and self.modality.has_tokens:
            check_tokens(state, size[1])
            state = state[:, :length]
        state = None if state is None else state[:rows]
        logits = logits[:rows]
        # The next replay of a recorded graph overwrites this memory.
        return (None if state is None else state.clone(), logits.clone()) if self.recorded else (state, logits)

    def _fill(
        self, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor], rows: int, length: int
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        more_rows = (1 << (rows - 1).bit_length()) - rows
        more_tokens = -length % LENGTH_STEP if self.modality.has_tokens else 0
        if self.max_length is not None:
            more_tokens = min(more_tokens, self.max_length - length)
        shared = hidden is not None and self.modality.one_for_all(inputs)
        filled = {}
        for name, value in inputs.items():
            # The rows are not known here: of an input that is in no table, the length of the batch decides.
            padded = self.modality.has_tokens and follows_tokens(name, value.shape[1:], length)
            more = more_tokens if padded else 0
            filled[name] = _filled(value, 0 if shared else more_rows, more, self.pad.get(name, 0))
        return None if hidden is None else _filled(hidden, more_rows, more_tokens, 0), filled


def _filled(value: torch.Tensor, more_rows: int, more_tokens: int, pad: float) -> torch.Tensor:
    if more_tokens:
        value = F.pad(value, (0, 0) * (value.dim() - 2) + (0, more_tokens), value=pad)
    # Repeated rows, not zeros: a text without tokens would be a special case.
    return torch.cat([value, value[-1:].expand(more_rows, *value.shape[1:])]) if more_rows else value
