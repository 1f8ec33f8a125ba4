# SPDX-License-Identifier: Apache-2.0
"""A MainNet with SideNets as a chain of stages: pure functions that compile and export one by one.

Stage 0 goes from the inputs to (x_c, logits of SideNet 0); stage k from x_c of SideNet k - 1 to x_c of SideNet k and
its logits; the last from x_c of the last SideNet to the MainNet's logits. No row leaves inside a stage: who goes on
to the next one is for the caller to decide, who may bring rows of different batches together.

A later stage is the whole MainNet again, on a copy that shares every weight and skips what ran before, so that masks,
positions and the head are made by the MainNet's own forward. Whether that gives the MainNet's answers is tried when
the chain is made.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..data.lengths import longest_text
from ..models.gate import Blocks, Run, StopForward, run_mainnet, sharing_weights
from ..models.mainnet import check_unchanged, gated, name_of
from ..models.sidenet import SideNet, read_exit
from .precision import precision_of
from .tail import tail_of, watch


# Layers whose mode says that somebody trains. That of another says nothing where it was put into the model later.
TELLING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


class StagesError(ValueError):
    """A MainNet cannot be run stage by stage; its own forward, in which rows leave, is not affected."""


class Stage(nn.Module):
    """One stage.

    Args:
        mainnet (`nn.Module`): the MainNet, or its tail.
        start (`int`, *optional*): number of blocks that ran before; `None` for the first stage.
        end (`int`, *optional*): number of blocks after which it ends; `None` for the last stage.
        sidenet ([`SideNet`], *optional*): that reads x_c there; `None` for the last stage.
        pooling (`str`, *optional*): of that SideNet.
        fixed (`dict[str, Any]`): arguments of every call.
        input_size (`list[int]`, *optional*): `[channels, height, width]` of images; `None` for text.
    """

    def __init__(
        self,
        mainnet: nn.Module,
        start: int | None,
        end: int | None,
        sidenet: SideNet | None,
        pooling: str | None,
        fixed: dict[str, Any],
        input_size: list[int] | None,
    ):
        super().__init__()
        self.mainnet = mainnet
        self.start = start
        self.end = end
        self.sidenet = sidenet
        self.pooling = pooling
        self.fixed = fixed
        self.input_size = input_size

    def forward(self, hidden: torch.Tensor | None = None, **inputs: torch.Tensor) -> Any:
        """Run the blocks of this stage.

        Args:
            hidden (`torch.Tensor` of shape `(rows, ...)`, *optional*): x_c where the stage starts; none for the first.
            inputs (`torch.Tensor`): the MainNet's inputs of the same rows. For images a later stage needs none, but
                for the size of the images where it is not the recorded one: `pixel_values` of one row.

        Returns:
            `(x_c, logits)`, or the logits alone of the last stage.
        """
        seen = []

        def visit(index: int, state: torch.Tensor, rows: torch.Tensor | None) -> None:
            if index == self.end:
                seen.append(state)
                # A compiler drops what nobody reads, and cannot follow the exception.
                if not torch.compiler.is_compiling():
                    raise StopForward

        mask = inputs.get("attention_mask")
        if self.start is not None and self.input_size is not None and "pixel_values" not in inputs:
            inputs["pixel_values"] = hidden.new_zeros(1, *self.input_size)
        run = Run(visit, resume=None if self.start is None else (self.start, hidden))
        out = run_mainnet(self.mainnet, run, **inputs, **self.fixed, return_dict=True)
        if self.end is None:
            return out.logits
        return seen[0], self.read(seen[0], mask)

    def read(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Logits of the SideNet of this stage.

        Args:
            hidden (`torch.Tensor` of shape `(rows, ...)`): x_c where the stage ends.
            mask (`torch.Tensor` of shape `(rows, tokens)`, *optional*): the `attention_mask`.
        """
        return read_exit(self.sidenet, self.pooling, hidden, mask)


class Served:
    """What a runner has to know of a model: its rows and exits, and where it runs. `model` is a copy that shares every
    weight; its config and its mode are its own, so that what becomes of the model's changes no answer.

    Args:
        model ([`SideNetPreTrainedModel`]): in evaluation mode, on one device.

    Raises:
        ValueError: the model is in training mode, or spread over several devices.
    """

    def __init__(self, model: PreTrainedModel):
        self._given = [
            (name, module) for name, module in model.named_modules() if "." not in name or isinstance(module, TELLING)
        ]
        self.check_mode()
        places = set(getattr(model, "hf_device_map", {}).values())
        if len(places) > 1:
            raise ValueError(f"`model` must be on one device to be cut into stages, got {sorted(map(str, places))}.")
        self.model = sharing_weights(model).eval()
        self.modality = model.modality
        self.task = model.task
        self.config = self.model.config
        self.device = model.device
        self.dtype = model.dtype
        self.precision = precision_of(model)
        self.input_names = tuple(name for name in self.modality.row_inputs if name in model.mainnet_inputs)
        self.max_length = longest_text(model.mainnet) if self.modality.has_tokens else None

    def check_mode(self) -> None:
        """Refuse to go on while the model that was given is in training mode, or a part of it: its weights change.

        Raises:
            ValueError: it is.
        """
        for name, module in self._given:
            if module.training:
                part = f"its {type(module).__name__} {name!r}" if name else "the whole of it"
                raise ValueError(
                    f"`model` must be in evaluation mode, got {part} in training mode: call `model.eval()` first."
                )

    def __len__(self) -> int:
        """Number of exits."""
        return len(self.config.exit_layers) + 1


class Stages(Served):
    """The chain of stages of a model. Its weights are shared, not copied; its config is copied.

    Args:
        model ([`SideNetPreTrainedModel`]): in evaluation mode, on one device.

    Raises:
        StagesError: this MainNet cannot be run stage by stage.
        ValueError: the model is in training mode, or spread over several devices.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        config, model = self.config, self.model
        fixed = {"use_cache": False} if "use_cache" in model.mainnet_inputs else {}
        size = config.input_size
        mainnet, blocks = gated(model.mainnet, config.blocks)
        watched = watch(mainnet, blocks, self.modality, size)
        starts, ends = [None, *config.exit_layers], [*config.exit_layers, None]
        self.modules = []
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            part = mainnet if start is None else tail_of(mainnet, watched, start)
            head = (None, None) if end is None else (model.sidenets[k], config.pooling[k])
            self.modules.append(Stage(part, start, end, *head, fixed, size).eval())
        self._check(mainnet, blocks)

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Run one stage: its x_c (`None` for the last) and logits.

        Args:
            index (`int`): which stage.
            hidden (`torch.Tensor`, *optional*): x_c that it starts from; `None` for stage 0.
            inputs (`dict[str, torch.Tensor]`): the MainNet's inputs of the same rows; of images one row is enough
                after stage 0.

        Raises:
            ValueError: the model is in training mode.
        """
        self.check_mode()
        result = self.modules[index](**inputs) if hidden is None else self.modules[index](hidden, **inputs)
        return result if index < len(self.modules) - 1 else (None, result)

    @torch.no_grad()
    def _check(self, mainnet: nn.Module, blocks: Blocks) -> None:
        """Run example rows stage by stage, and compare every exit with one call of the MainNet."""
        inputs = self.modality.example_inputs(mainnet, self.config.input_size)
        mask, hidden = inputs.get("attention_mask"), None
        seen: dict[int, torch.Tensor] = {}
        run = Run(lambda index, state, rows: seen.__setitem__(index, state))
        out = run_mainnet(mainnet, run, **inputs, **self.modules[0].fixed, return_dict=True)
        for k, stage in enumerate(self.modules):
            expected = out.logits if stage.end is None else stage.read(seen[stage.end], mask)
            try:
                hidden, logits = self(k, hidden, inputs)
                check_unchanged(logits, expected)
            except Exception as error:
                place = "at its beginning" if stage.start is None else f"after {blocks.names[stage.start - 1]}"
                reason = " ".join(str(error).split()).rstrip(".,")
                raise StagesError(
                    f"{name_of(mainnet)} cannot be run stage by stage: started {place}, it fails ({reason}). Its own "
                    "forward works, which is `routing='gates'` of the runner."
                ) from error
            inputs = self.modality.later_inputs(inputs)
