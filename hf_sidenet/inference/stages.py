# SPDX-License-Identifier: Apache-2.0
"""A MainNet with SideNets as a chain of stages: pure functions that compile and export separately.

Stage 0 maps the inputs to (x_c, logits of SideNet 0); stage k maps x_c of SideNet k - 1 to x_c of SideNet k and its
logits; the last maps x_c of the last SideNet to the MainNet's logits. No row exits inside a stage: the caller decides
which rows continue, and may combine rows of different batches. With a SideNet before the first block, stage 0 is that
SideNet alone, without an x_c, and stage 1 starts from the inputs too.

A later stage is a copy of the whole MainNet that shares every weight and skips the modules that already ran, so that
the MainNet's own forward computes masks, positions and the head. Creating a chain checks that it reproduces the
MainNet's answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from ..data.limits import longest_text
from ..models.configuration_sidenet import begins_at_input
from ..models.errors import ArgumentError, StopForward
from ..models.gate import Blocks, Run, leave_through_gate, run_mainnet, sharing_weights
from ..models.mainnet import check_unchanged, evaluating, gated, name_of
from ..models.modalities import Modality
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.row_inputs import BESIDE_TOKENS
from ..models.sidenet import SideNet, read_exit
from .precision import precision_of


# Number of input sizes whose outputs a skipped module remembers.
MAX_FORMS = 16

# Layers whose training mode matters. A module of another type may have been added later, in any mode.
TELLING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


class Skipped(nn.Module):
    """Replaces a module that already ran. Indices do not change, for MainNets that count their blocks.

    Args:
        module (`nn.Module`): the module; its attributes stay readable (ModernBERT reads the attention type).
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        # Not a submodule, because its weights are not used.
        self.__dict__["skipped"] = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["skipped"], name)


class PassesOn(Skipped):
    """Skipped block of a MainNet for texts. Returns its input, since x_c has the same form after every block.

    Args:
        module (`nn.Module`): the block.
        output (`Any`): an example of its output: a tensor, or a tuple with the hidden states first.
    """

    def __init__(self, module: nn.Module, output: Any):
        super().__init__(module)
        rest = output[1:] if isinstance(output, tuple) else None
        self.rest = rest if rest is None else tuple(None if isinstance(v, torch.Tensor) else v for v in rest)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else next(iter(kwargs.values()))
        return hidden if self.rest is None else (hidden, *self.rest)


@dataclass(frozen=True)
class Form:
    """Arguments of `torch.zeros` for a placeholder tensor."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device


class GivesZeros(Skipped):
    """Skipped module of a MainNet for images. Returns zeros in the shape of its output.

    It learns the shape for each input size by running once, on a single row.

    Args:
        module (`nn.Module`): the module.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module)
        # Pairs of inputs and outputs; a cache that does not affect results.
        self.forms: list[tuple[list[Any], Any]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = [_size(value) for value in tree_leaves((args, kwargs))]
        for known, output in self.forms:
            if known == given:
                return tree_map(_zeros, output)
        # `forward`, to bypass its hooks, the gates.
        output = self.skipped.forward(*args, **kwargs)
        if not torch.compiler.is_compiling() and len(self.forms) < MAX_FORMS:
            self.forms.append((given, tree_map(_form, output)))
        return output


@dataclass(frozen=True)
class Call:
    """Call of a module.

    Args:
        begin (`int`): start, counted in calls and returns of all modules.
        end (`int`): end, counted the same way.
        output (`Any`): output, for blocks.
    """

    begin: int
    end: int
    output: Any


@dataclass(frozen=True)
class Watched:
    """Record of one call of a MainNet.

    Args:
        blocks ([`Blocks`]): blocks of the MainNet.
        modality ([`Modality`]): its modality.
        calls (`dict[str, list[Call]]`): calls of each module, by name.
        gates (`dict[int, int]`): when each gate was reached, by the number of blocks before it.
    """

    blocks: Blocks
    modality: Modality
    calls: dict[str, list[Call]]
    gates: dict[int, int]

    def over_before(self, gate: int) -> list[str]:
        """List the outermost modules that ran between the start of the first block and a gate, each called once.

        For texts these are the blocks only: other modules can run on any x_c, and later blocks may need their output
        (positions, masks).

        Args:
            gate (`int`): number of blocks before it.
        """
        first = self.calls[self.blocks.names[0]][0].begin
        over = set(self.blocks.names[:gate])
        for name, calls in self.calls.items():
            if (
                not self.modality.keeps_form
                and len(calls) == 1
                and first <= calls[0].begin
                and calls[0].end <= self.gates[gate]
            ):
                over.add(name)
        return [name for name in over if over.isdisjoint(_parents(name))]


@torch.no_grad()
def watch(mainnet: PreTrainedModel, blocks: Blocks, modality: Modality, input_size: list[int] | None) -> Watched:
    """Record one call of a MainNet on an example row.

    Args:
        mainnet (`PreTrainedModel`): a MainNet with gates on its blocks.
        blocks ([`Blocks`]): its blocks.
        modality ([`Modality`]): its modality.
        input_size (`list[int]`, *optional*): size from [`~Modality.input_size`].
    """
    # A copy, because other threads may call the MainNet meanwhile.
    twin = sharing_weights(mainnet)
    now = count().__next__
    began: list[int] = []
    calls: dict[str, list[Call]] = {}
    gates: dict[int, int] = {}

    def enter(*_: Any) -> None:
        began.append(now())

    def leave(name: str) -> Callable:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Other outputs may be many and large.
            kept = output if name in blocks.names else None
            calls.setdefault(name, []).append(Call(began.pop(), now(), kept))

        return hook

    def visit(index: int, *_: Any) -> None:
        gates[index] = now()

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave(name))
    inputs = {name: value[:1] for name, value in modality.example_inputs(mainnet, input_size).items()}
    with evaluating(twin):
        run_mainnet(twin, Run(visit), **inputs, return_dict=True)
    return Watched(blocks, modality, calls, gates)


def tail_of(mainnet: nn.Module, watched: Watched, start: int) -> nn.Module:
    """Copy a MainNet, skipping the modules that run before a gate and sharing every parameter and buffer.

    Args:
        mainnet (`nn.Module`): a MainNet with gates on its blocks.
        watched ([`Watched`]): record of one call.
        start (`int`): number of blocks before the gate.
    """
    tail, blocks = sharing_weights(mainnet), watched.blocks
    for name in watched.over_before(start):
        module = tail.get_submodule(name)
        passes = watched.modality.keeps_form
        tail.set_submodule(name, PassesOn(module, watched.calls[name][0].output) if passes else GivesZeros(module))
    if blocks.gate_after:
        leave_through_gate(tail.get_submodule(blocks.names[start - 1]), start - 1)
    return tail


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _size(value: Any) -> Any:
    return list(value.shape) if isinstance(value, torch.Tensor) else value


def _form(value: Any) -> Any:
    return Form(value.shape, value.dtype, value.device) if isinstance(value, torch.Tensor) else value


def _zeros(value: Any) -> Any:
    return torch.zeros(value.size, dtype=value.dtype, device=value.device) if isinstance(value, Form) else value


class StagesError(ValueError):
    """A MainNet cannot run stage by stage; its own forward, in which rows exit, still works."""


class Stage(nn.Module):
    """One stage.

    Args:
        mainnet (`nn.Module`): the MainNet, or its tail.
        start (`int`, *optional*): number of blocks that ran before; `None` for the first stage.
        end (`int`, *optional*): number of blocks after which it ends; `None` for the last stage.
        sidenet ([`SideNet`], *optional*): SideNet at its end; `None` for the last stage.
        pooling (`str`, *optional*): pooling of that SideNet.
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
            hidden (`torch.Tensor` of shape `(rows, ...)`, *optional*): x_c at the start; `None` for the first stage.
            inputs (`torch.Tensor`): MainNet inputs of the same rows. For images, a later stage needs `pixel_values`
                of only one row, unless there are other inputs, and only if the size is not the recorded one.

        Returns:
            `(x_c, logits)`, or only logits for the last stage.
        """
        seen: list[torch.Tensor] = []

        def visit(index: int, state: torch.Tensor, rows: torch.Tensor | None) -> None:
            if index == self.end:
                seen.append(state)
                # A compiler removes the unused rest, and cannot trace the exception.
                if not torch.compiler.is_compiling():
                    raise StopForward

        mask = inputs.get("attention_mask")
        if self.start is not None and self.input_size is not None and "pixel_values" not in inputs:
            assert hidden is not None  # A later stage has x_c.
            inputs["pixel_values"] = hidden.new_zeros(1, *self.input_size)
        resume = None
        if self.start is not None:
            assert hidden is not None
            resume = self.start, hidden
        run = Run(visit, resume=resume)
        out = run_mainnet(self.mainnet, run, **inputs, **self.fixed, return_dict=True)
        if self.end is None:
            return out.logits
        return seen[0], self.read(seen[0], mask)

    def read(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the logits of this stage's SideNet.

        Args:
            hidden (`torch.Tensor` of shape `(rows, ...)`): x_c at the end of the stage.
            mask (`torch.Tensor` of shape `(rows, tokens)`, *optional*): the `attention_mask`.
        """
        # The last stage has no SideNet.
        assert self.sidenet is not None
        assert self.pooling is not None
        return read_exit(self.sidenet, self.pooling, hidden, mask)


class InputStage(nn.Module):
    """Stage of a SideNet before the first block.

    Args:
        sidenet (`nn.Module`): the SideNet.
    """

    def __init__(self, sidenet: nn.Module):
        super().__init__()
        self.sidenet = sidenet

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(rows, num_labels)` for MainNet inputs."""
        return self.sidenet(inputs)


class Served:
    """Model as seen by a runner: its inputs, exits and device.

    `model` is a copy that shares every weight but has its own config and mode, so that later changes to the original's
    do not affect answers.

    Args:
        model ([`SideNetPreTrainedModel`]): a model in evaluation mode, on one device.

    Raises:
        ValueError: the model is in training mode, or spread over several devices.
    """

    def __init__(self, model: SideNetPreTrainedModel):
        self._given = [
            (name, module) for name, module in model.named_modules() if "." not in name or isinstance(module, TELLING)
        ]
        self.check_mode()
        places = set(getattr(model, "hf_device_map", {}).values())
        if len(places) > 1:
            raise ArgumentError(
                "model",
                f"must be on one device to be split into stages, got {sorted(map(str, places))}",
            )
        self.model = sharing_weights(model).eval()
        self.modality = model.modality
        self.task = model.task
        self.config = self.model.config
        self.device = model.device
        self.dtype = model.dtype
        self.precision = precision_of(model)
        self.input_names = self.modality.row_inputs(model.mainnet_inputs)
        self.max_length = longest_text(model.mainnet) if self.modality.has_tokens else None

    def check_mode(self) -> None:
        """Refuse to run while the original model, or a part of it, is in training mode: its weights may change.

        Raises:
            ValueError: it is.
        """
        for name, module in self._given:
            if module.training:
                part = f"its {type(module).__name__} {name!r}" if name else "all of it"
                raise ArgumentError(
                    "model",
                    f"must be in evaluation mode, got {part} in training mode: call `model.eval()` first",
                )

    def __len__(self) -> int:
        """Number of exits."""
        return len(self.config.exit_layers) + 1


class Stages(Served):
    """Chain of stages of a model. Weights are shared, the config is copied.

    Args:
        model ([`SideNetPreTrainedModel`]): a model in evaluation mode, on one device.

    Raises:
        StagesError: this MainNet cannot run stage by stage.
        ValueError: the model is in training mode, or spread over several devices.
    """

    def __init__(self, model: SideNetPreTrainedModel):
        super().__init__(model)
        self.input_names = tuple(name for name in self.input_names if name not in BESIDE_TOKENS)
        config, model = self.config, self.model
        fixed = {"use_cache": False} if "use_cache" in model.mainnet_inputs else {}
        size = config.input_size
        mainnet, blocks = gated(model.mainnet, config.blocks)
        watched = watch(mainnet, blocks, self.modality, size)
        first = int(begins_at_input(config))
        starts: list[int | None] = [None, *config.exit_layers[first:]]
        ends: list[int | None] = [*config.exit_layers[first:], None]
        self.modules: list[Stage | InputStage] = [InputStage(model.sidenets[0]).eval()] if first else []
        for k, (start, end) in enumerate(zip(starts, ends, strict=True), start=first):
            part = mainnet if start is None else tail_of(mainnet, watched, start)
            sidenet, pooling = None, None
            if end is not None:
                sidenet, pooling = cast(SideNet, model.sidenets[k]), config.pooling[k]
            self.modules.append(Stage(part, start, end, sidenet, pooling, fixed, size).eval())
        self._check(mainnet, blocks)

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Run one stage; return its x_c (`None` for the last, and before the first block) and logits.

        Args:
            index (`int`): index of the stage.
            hidden (`torch.Tensor`, *optional*): x_c at its start; `None` if no block has run.
            inputs (`dict[str, torch.Tensor]`): MainNet inputs of the same rows; for images, one row is enough after
                stage 0.

        Raises:
            ValueError: the model is in training mode.
        """
        self.check_mode()
        result = self.modules[index](**inputs) if hidden is None else self.modules[index](hidden, **inputs)
        return result if isinstance(result, tuple) else (None, result)

    @torch.no_grad()
    def _check(self, mainnet: PreTrainedModel, blocks: Blocks) -> None:
        """Run example rows stage by stage, and compare every exit with a call of the MainNet."""
        inputs = self.modality.example_inputs(mainnet, self.config.input_size)
        mask, hidden = inputs.get("attention_mask"), None
        seen: dict[int, torch.Tensor] = {}
        run = Run(lambda index, state, rows: seen.__setitem__(index, state))
        parts = [(k, stage) for k, stage in enumerate(self.modules) if isinstance(stage, Stage)]
        out = run_mainnet(mainnet, run, **inputs, **parts[0][1].fixed, return_dict=True)
        for k, stage in parts:
            expected = out.logits if stage.end is None else stage.read(seen[stage.end], mask)
            try:
                hidden, logits = self(k, hidden, inputs)
                check_unchanged(logits, expected)
            except Exception as error:
                place = "at the beginning" if stage.start is None else f"after {blocks.names[stage.start - 1]}"
                reason = " ".join(str(error).split()).rstrip(".,")
                raise StagesError(
                    f"{name_of(mainnet)} cannot run stage by stage: started {place}, it fails ({reason}). Its own "
                    "forward works: use `routing='gates'` in the runner."
                ) from error
            inputs = self.modality.later_inputs(inputs, hidden)
