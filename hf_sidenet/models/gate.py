# SPDX-License-Identifier: Apache-2.0
"""Split the forward pass of any MainNet between its blocks: drop rows, slice per-row arguments, put rows back.

The MainNet is wrapped, never copied: persistent hooks on its own blocks do nothing unless a [`Run`] is active in the
current thread. During a run,

* a gate before block k passes the hidden states to `run.visit`, which may select the rows to keep;
* every later block gets hidden states and per-row arguments (masks, positions) sliced to the remaining rows;
* after the last block, rows return to their batch positions (zeros for rows that exited), so that the pooler, the
  final norm and the head run unmodified.

Several exits compose through two index sets: the rows that `visit` keeps index the remaining rows and slice the
hidden states; `run.rows` indexes the original batch and slices everything else, because a MainNet passes its original
masks to every block. The state of a call is thread-local, compiled or not, so threads do not see each other.
"""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from .errors import ArgumentError, StopForward


@dataclass(frozen=True)
class Blocks:
    """Blocks of a MainNet, in order.

    Args:
        names (`list[str]`): module names inside the MainNet.
        modules (`list[nn.Module]`): the blocks.
        gate_after (`bool`): gates sit at a block's output (timm, where other modules may come between two stages)
            instead of the next block's input (transformers, where a model may still combine a block's input and
            output afterward, as DeBERTa does).
        per_row (`Mapping[str, int]`): block arguments with one row per example, besides the hidden states, and the
            minimum number of axes for that; with fewer axes, all examples share them.
        shared (`frozenset[str]`): block arguments that all examples share, regardless of axis 0.
    """

    names: list[str]
    modules: list[nn.Module]
    gate_after: bool
    per_row: Mapping[str, int]
    shared: frozenset[str]


@dataclass
class Run:
    """State of one forward call.

    Args:
        visit (`Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor | None]`):
            Called between blocks with the number of blocks that ran, the hidden states of the remaining rows, and
            their batch positions (`None`: all rows). Returns the rows to keep, as indices into the remaining rows, or
            `None` for all of them; raises [`StopForward`] when no row remains.
        resume (`tuple[int, torch.Tensor]`, *optional*):
            A number of blocks, and hidden states that replace the output of those blocks.
    """

    visit: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor | None]
    resume: tuple[int, torch.Tensor] | None = None
    rows: torch.Tensor | None = None
    batch_size: int | None = None
    finished: bool = False


class _ThreadState(threading.local):
    """Current run of each thread.

    Within one traced graph it is `traced`, which exists while that graph is traced. If a graph breaks within a run,
    its pieces are compiled separately, and each reads `run` outside the graph; they do so only if `is_running`, so
    that a plain MainNet still compiles to one graph. Guards use the values of the calling thread.
    """

    def __init__(self):
        # Not class defaults, which dynamo does not find among a thread's attributes.
        self.run: Run | None = None
        self.is_running = False
        self.traced: Run | None = None


_STATE = _ThreadState()


def _current_run() -> Run | None:
    # Not `is_compiling`, which is true in every thread while one of them compiles.
    if not torch.compiler.is_dynamo_compiling():
        return _STATE.run
    if _STATE.traced is not None or not _STATE.is_running:
        return _STATE.traced
    return _run_of_thread()  # pyright: ignore[reportCallIssue]  torch's `disable` has no types


@torch.compiler.disable
def _run_of_thread() -> Run | None:
    return _STATE.run


@contextmanager
def _running(run: Run) -> Iterator[None]:
    if torch.compiler.is_dynamo_compiling():
        _STATE.traced = run
        try:
            yield
        finally:
            _STATE.traced = None
    else:
        before = _STATE.run
        _STATE.run, _STATE.is_running = run, True
        try:
            yield
        finally:
            _STATE.run, _STATE.is_running = before, before is not None


def run_mainnet(mainnet: Callable[..., Any], run: Run, **inputs: Any) -> Any:
    """Call the MainNet under `run`; `None` when the forward stopped early."""
    with _running(run):
        try:
            return mainnet(**inputs)
        except StopForward:
            return None


def install(mainnet: nn.Module, blocks: Blocks) -> None:
    """Install the hooks on the blocks of a MainNet; does nothing if they are already there.

    Raises:
        ValueError: the MainNet already has gates on other blocks.
    """
    gated = [name for name, module in mainnet.named_modules() if is_gated(module)]
    if gated == blocks.names:
        return
    if gated:
        raise ArgumentError(
            "blocks",
            f"must match the blocks at which this MainNet is already split, {gated}, got {blocks.names}",
        )
    for i, block in enumerate(blocks.modules):
        names = tuple(inspect.signature(block.forward).parameters)
        enter = partial(_enter_block, index=i, names=names, gate_here=i > 0 and not blocks.gate_after, blocks=blocks)
        block.register_forward_pre_hook(enter, with_kwargs=True)
        if i == len(blocks.modules) - 1:
            block.register_forward_hook(_leave_last_block)
        elif blocks.gate_after:
            leave_through_gate(block, i)


def leave_through_gate(block: nn.Module, index: int) -> None:
    """Put the gate after a block of a MainNet with `gate_after`.

    Args:
        block (`nn.Module`): the block, or its replacement.
        index (`int`): index of the block.
    """
    block.register_forward_hook(partial(_leave_block, index=index))


Model = TypeVar("Model", bound=nn.Module)


def sharing_weights(mainnet: Model) -> Model:
    """Copy a MainNet, sharing its parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*mainnet.parameters(), *mainnet.buffers())}
    return copy.deepcopy(mainnet, memo=shared)


def is_gated(block: nn.Module) -> bool:
    """Return whether a block has the gates of this file."""
    return any(getattr(hook, "func", None) is _enter_block for hook in block._forward_pre_hooks.values())


def _enter_block(block, args, kwargs, *, index, names, gate_here, blocks):
    run = _current_run()
    if run is None:
        return None
    given = args[0] if args else kwargs[names[0]]
    hidden = _pass_gate(run, index, given) if gate_here else given
    if run.rows is None:
        if hidden is given:
            return None
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, names[0]: hidden})
    if args:
        named = [(names[min(i, len(names) - 1)], value) for i, value in enumerate(args[1:], start=1)]
        others = tuple(_cut(name, value, run, blocks) for name, value in named)
        return (hidden, *others), {name: _cut(name, value, run, blocks) for name, value in kwargs.items()}
    return (), {name: hidden if name == names[0] else _cut(name, value, run, blocks) for name, value in kwargs.items()}


def _leave_block(block, args, output, *, index):
    run = _current_run()
    if run is None:
        return None
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"block {index} must return one tensor to take a SideNet, got {type(output).__name__}.")
    return _pass_gate(run, index + 1, output)


def _leave_last_block(block, args, output):
    run = _current_run()
    if run is None:
        return None
    run.finished = True
    if run.rows is None:
        return None
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, torch.Tensor):
        raise ValueError(f"the last block must return a tensor or a tuple, got {type(output).__name__}.")
    assert run.batch_size is not None  # Set when the first rows exit.
    rows = run.rows.to(hidden.device)
    hidden = hidden.new_zeros(run.batch_size, *hidden.shape[1:]).index_copy(0, rows, hidden)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _pass_gate(run: Run, index: int, hidden: torch.Tensor) -> torch.Tensor:
    if run.resume is not None and index <= run.resume[0]:
        return run.resume[1] if index == run.resume[0] else hidden
    keep = run.visit(index, hidden, run.rows)
    if keep is None:
        return hidden
    if run.batch_size is None:
        run.batch_size = hidden.shape[0]
    run.rows = keep if run.rows is None else run.rows.index_select(0, keep.to(run.rows.device))
    return hidden.index_select(0, keep.to(hidden.device))


def _cut(name: str, value: Any, run: Run, blocks: Blocks) -> Any:
    """Slice one block argument to the remaining rows; arguments without rows pass unchanged."""
    if (
        run.rows is None
        or value is None
        or name in blocks.shared
        or isinstance(value, bool | int | float | str | torch.dtype)
    ):
        return value
    if isinstance(value, tuple | list | torch.Size):
        return type(value)(_cut(name, item, run, blocks) for item in value)
    if isinstance(value, dict):
        return {key: _cut(name, item, run, blocks) for key, item in value.items()}
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"block argument {name!r} is a {type(value).__name__}, and it is unknown which of its parts belong to the "
            "rows that exit. A MainNet with a cache or other per-row objects cannot be split."
        )
    if value.dim() < blocks.per_row.get(name, 1) or value.shape[0] == 1:
        return value
    # Never decided by the batch size alone: an unrelated axis may have the same length by chance.
    if name not in blocks.per_row:
        raise ValueError(
            f"block argument {name!r} of shape {tuple(value.shape)} may or may not have one row per example. Add the "
            "name to PER_ROW or SHARED in mainnet.py (CONTRIBUTING, Add a MainNet)."
        )
    if value.shape[0] != run.batch_size:
        raise ValueError(
            f"block argument {name!r} must have one row per example, {run.batch_size}, or one for all, got shape "
            f"{tuple(value.shape)}."
        )
    return value.index_select(0, run.rows.to(value.device))


def has_sharded_parameters(module: nn.Module) -> bool:
    """Return whether FSDP (1 or 2) or DeepSpeed ZeRO-3 gathers parts of `module` during its forward pass."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(child, FullyShardedDataParallel) for child in module.modules()) or any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters()
    )
