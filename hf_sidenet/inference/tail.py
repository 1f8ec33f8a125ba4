# SPDX-License-Identifier: Apache-2.0
"""The rest of a MainNet after some of its blocks, without copying a weight."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..models.gate import Blocks, Run, run_mainnet
from ..models.probe import evaluating, example_inputs


class SkippedBlock(nn.Module):
    """Takes the place of a block that ran before: passes its input on. Indices stay, so that a MainNet which counts
    its blocks is not fooled.

    Args:
        block (`nn.Module`): the block; its attributes can still be read (ModernBERT asks for the attention type), and
            its gates after it stay.
        output (`Any`): what it returned once: a tensor, or a tuple with the hidden states first.
    """

    def __init__(self, block: nn.Module, output: Any):
        super().__init__()
        # Not a submodule: its weights are not used.
        self.__dict__["skipped"] = block
        self.rest = output[1:] if isinstance(output, tuple) else None
        for hook in block._forward_hooks.values():
            self.register_forward_hook(hook)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["skipped"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else next(iter(kwargs.values()))
        return hidden if self.rest is None else (hidden, *self.rest)


def tail_of(mainnet: nn.Module, blocks: Blocks, start: int, input_size: list[int] | None) -> nn.Module:
    """A MainNet whose first blocks are skipped, sharing every parameter and buffer with the one given.

    Args:
        mainnet (`nn.Module`): carries gates on its blocks.
        blocks ([`Blocks`]): its blocks.
        start (`int`): how many blocks are skipped.
        input_size (`list[int]`, *optional*): `[channels, height, width]` of images; `None` for text.
    """
    outputs = _outputs(mainnet, blocks.modules[:start], input_size)
    shared = {id(tensor): tensor for tensor in (*mainnet.parameters(), *mainnet.buffers())}
    tail = copy.deepcopy(mainnet, memo=shared)
    for name, output in zip(blocks.names[:start], outputs, strict=True):
        tail.set_submodule(name, SkippedBlock(tail.get_submodule(name), output))
    return tail


def _outputs(mainnet: nn.Module, modules: list[nn.Module], input_size: list[int] | None) -> list[Any]:
    """What these blocks return for three example rows, without their tensors: only the form counts."""
    seen: dict[int, Any] = {}

    def remember(index: int) -> Callable:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[index] = tuple(map(_without_tensors, output)) if isinstance(output, tuple) else None

        return hook

    handles = [module.register_forward_hook(remember(i)) for i, module in enumerate(modules)]
    try:
        with evaluating(mainnet), torch.no_grad():
            run_mainnet(mainnet, Run(lambda *_: None), **example_inputs(mainnet, input_size), return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[i] for i in range(len(modules))]


def _without_tensors(value: Any) -> Any:
    return None if isinstance(value, torch.Tensor) else value
