# SPDX-License-Identifier: Apache-2.0
"""The rest of a MainNet after some of its blocks, without copying a weight.

What ran before a gate is known from watching one call: the blocks, and of MainNets for images whatever else was called
since the first block began and had returned when the gate was reached. In a tail each of these gives at once something
of the form of its output, so that the code between them, which belongs to no module, meets what it expects. At the
gate x_c takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from ..models.gate import Blocks, Run, leave_through_gate, run_mainnet, sharing_weights
from ..models.mainnet import evaluating
from ..models.modalities import Modality


# Sizes of images whose forms a skipped module remembers.
MAX_FORMS = 16


class Skipped(nn.Module):
    """Takes the place of a module that ran before. Indices stay, so that a MainNet which counts its blocks is not
    fooled.

    Args:
        module (`nn.Module`): what ran; its attributes can still be read (ModernBERT asks for the attention type).
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        # Not a submodule: its weights are not used.
        self.__dict__["skipped"] = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["skipped"], name)


class PassesOn(Skipped):
    """A skipped block of a MainNet for texts, which gives its input: x_c has the same form after every block.

    Args:
        module (`nn.Module`): the block.
        output (`Any`): what it returned once: a tensor, or a tuple with the hidden states first.
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
    """What stands for a tensor that nobody has computed: the arguments of `torch.zeros`."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device


class GivesZeros(Skipped):
    """A skipped module of a MainNet for images, which gives zeros as large as its output. How large that is for an
    input of some size, it knows once it has run for one: there is one row only.

    Args:
        module (`nn.Module`): what ran.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module)
        # Of inputs and outputs. Nothing that is computed depends on it.
        self.forms: list[tuple[list[Any], Any]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = [_size(value) for value in tree_leaves((args, kwargs))]
        for known, output in self.forms:
            if known == given:
                return tree_map(_zeros, output)
        # Its own hooks are the gates.
        output = self.skipped.forward(*args, **kwargs)
        if not torch.compiler.is_compiling() and len(self.forms) < MAX_FORMS:
            self.forms.append((given, tree_map(_form, output)))
        return output


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Args:
        begin (`int`): when it began, in calls and returns of all modules.
        end (`int`): when it returned.
        output (`Any`): what a block returned.
    """

    begin: int
    end: int
    output: Any


@dataclass(frozen=True)
class Watched:
    """What one call of a MainNet did.

    Args:
        blocks ([`Blocks`]): of the MainNet.
        modality ([`Modality`]): what it reads.
        calls (`dict[str, list[Call]]`): of each module that was called, by name.
        gates (`dict[int, int]`): when each gate was reached, by the number of blocks before it.
    """

    blocks: Blocks
    modality: Modality
    calls: dict[str, list[Call]]
    gates: dict[int, int]

    def over_before(self, gate: int) -> list[str]:
        """Modules that ran between the beginning of the first block and a gate, the largest only. One that is called
        several times is none of them. For texts they are the blocks: what else runs on tokens can run on any x_c, and
        later blocks may need what it returns (positions, masks).

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
def watch(mainnet: nn.Module, blocks: Blocks, modality: Modality, input_size: list[int] | None) -> Watched:
    """Watch one call of a MainNet on an example row.

    Args:
        mainnet (`nn.Module`): carries gates on its blocks.
        blocks ([`Blocks`]): its blocks.
        modality ([`Modality`]): what it reads.
        input_size (`list[int]`, *optional*): of [`~Modality.input_size`].
    """
    # A copy, because others may call the MainNet meanwhile.
    twin = sharing_weights(mainnet)
    now = count().__next__
    began: list[int] = []
    calls: dict[str, list[Call]] = {}
    gates: dict[int, int] = {}

    def enter(*_: Any) -> None:
        began.append(now())

    def leave(name: str) -> Callable:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Of the others there may be many, and they may be large.
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
    """A MainNet in which what ran before a gate is skipped, sharing every parameter and buffer with the one given.

    Args:
        mainnet (`nn.Module`): carries gates on its blocks.
        watched ([`Watched`]): one call of it.
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
