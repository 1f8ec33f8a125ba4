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

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from ..data.limits import longest_text
from ..models.configuration_sidenet import begins_at_input
from ..models.errors import ArgumentError, StopForward
from ..models.gate import (
    Run,
    current_run,
    get_part,
    hooked_segments,
    install_segments,
    is_gated,
    name_arguments,
    parameter_names,
    run_mainnet,
    sharing_weights,
)
from ..models.layout import Layout, Segment
from ..models.mainnet import check_unchanged, gated, layout_of, name_of
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
    """Replaces a module that already ran, or runs again only in some of its calls.

    Indices do not change, for MainNets that count their blocks.

    Args:
        module (`nn.Module`): the module; its attributes stay readable (ModernBERT reads the attention type).
        segments (`list[Segment]`): the calls to skip.
        remembers (`bool`): inputs come in few sizes, so that the shape of an output is worth remembering.
    """

    def __init__(self, module: nn.Module, segments: list[Segment], *, remembers: bool):
        super().__init__()
        # Pairs of inputs and outputs; a cache that does not affect results.
        self.forms: list[tuple[list[Any], Any]] = []
        self.calls = {segment.call: segment for segment in segments}
        self.remembers = remembers
        self.names = parameter_names(module)
        # Not a submodule unless it still runs, because its weights are not used.
        if None in self.calls:
            self.__dict__["skipped"] = module
        else:
            self.skipped = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__.get("skipped") or self._modules["skipped"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        segment = self.calls.get(None) or self._of_this_call()
        if segment is None:
            return self.skipped(*args, **kwargs)
        if segment.like is None:
            return self._zeros(args, kwargs)
        return _imitate(segment.like, name_arguments(self.names, args, kwargs))

    def _of_this_call(self) -> Segment | None:
        """Return the call to skip, of a module that has several; `None` if this one runs."""
        run = current_run()
        assert run is not None  # A stage runs its MainNet under one.
        name = next(iter(self.calls.values())).module
        segment = self.calls.get(run.calls.get(name, 0))
        if segment is not None or not is_gated(self.skipped):
            # Otherwise its gates count.
            run.count(name)
        return segment

    def _zeros(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return zeros in the shape of the output, learned for each input size by running once."""
        given = [_size(value) for value in tree_leaves((args, kwargs))]
        for known, output in self.forms:
            if known == given:
                return tree_map(_zeros, output)
        # `forward`, to bypass its hooks, the gates.
        output = self.skipped.forward(*args, **kwargs)
        if self.remembers and not torch.compiler.is_compiling() and len(self.forms) < MAX_FORMS:
            self.forms.append((given, tree_map(_form, output)))
        return output


@dataclass(frozen=True)
class Form:
    """Arguments of `torch.zeros` for a placeholder tensor."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device


def tail_of(mainnet: nn.Module, layout: Layout, start: int, modality: Modality) -> nn.Module:
    """Copy a MainNet, skipping what runs before a gate and sharing every parameter and buffer.

    Of what depends on the inputs alone, texts skip nothing: masks and positions, of any length, come from there.

    Args:
        mainnet (`nn.Module`): a MainNet with gates.
        layout ([`Layout`]): where it is split.
        start (`int`): number of blocks before the gate.
        modality ([`Modality`]): its modality.
    """
    gate = layout.gates[start - 1]
    hooked = hooked_segments(layout)
    behind = gate.segment + 1 if gate.after else gate.segment
    skipped: dict[str, list[Segment]] = {}
    for i, segment in enumerate(layout.segments[:behind]):
        if i not in gate.needs and not (modality.has_tokens and segment.reruns):
            skipped.setdefault(segment.module, []).append(segment)
    tail = sharing_weights(mainnet)
    for name, segments in skipped.items():
        module = tail.get_submodule(name)
        replacement = Skipped(module, segments, remembers=not modality.has_tokens)
        tail.set_submodule(name, replacement)
        if None in replacement.calls and name in hooked:
            # The gate behind it.
            install_segments(replacement, hooked[name], replacement.names)
    return tail


def _imitate(like: Any, arguments: dict[str, Any]) -> Any:
    if isinstance(like, str):
        return get_part(arguments, like)
    return None if like is None else tuple(_imitate(item, arguments) for item in like)


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


def _check_gate(mainnet: PreTrainedModel, layout: Layout, layer: int) -> None:
    """Refuse a gate behind which the MainNet needs more than x_c.

    Raises:
        StagesError: it does.
    """
    if layer == 0:
        return
    gate, reason = layout.gates[layer - 1], None
    if gate.carries:
        names = list(dict.fromkeys(layout.segments[i].module for i in gate.carries))
        reason = f"what follows also needs what {names[0]} returned"
    elif not gate.fits_mask:
        reason = "x_c has no vector per token there"
    if reason is not None:
        raise _no_stages(mainnet, f"after {layout.blocks[layer - 1]}", reason)


def _no_stages(mainnet: PreTrainedModel, place: str, reason: str) -> StagesError:
    return StagesError(
        f"{name_of(mainnet)} cannot run stage by stage: started {place}, it fails ({reason}). Its own forward works: "
        "use `routing='gates'` in the runner."
    )


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
        layout = layout_of(model)
        mainnet = gated(model.mainnet, layout)
        for layer in config.exit_layers:
            _check_gate(mainnet, layout, layer)
        first = int(begins_at_input(config))
        starts: list[int | None] = [None, *config.exit_layers[first:]]
        ends: list[int | None] = [*config.exit_layers[first:], None]
        self.modules: list[Stage | InputStage] = [InputStage(model.sidenets[0]).eval()] if first else []
        for k, (start, end) in enumerate(zip(starts, ends, strict=True), start=first):
            part = mainnet if start is None else tail_of(mainnet, layout, start, self.modality)
            sidenet, pooling = None, None
            if end is not None:
                sidenet, pooling = cast(SideNet, model.sidenets[k]), config.pooling[k]
            self.modules.append(Stage(part, start, end, sidenet, pooling, fixed, size).eval())
        self._check(mainnet, layout)

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
    def _check(self, mainnet: PreTrainedModel, layout: Layout) -> None:
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
                place = "at the beginning" if stage.start is None else f"after {layout.blocks[stage.start - 1]}"
                reason = " ".join(str(error).split()).rstrip(".,")
                raise _no_stages(mainnet, place, reason) from error
            inputs = self.modality.later_inputs(inputs, hidden)
