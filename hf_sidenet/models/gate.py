# SPDX-License-Identifier: Apache-2.0
"""Split the forward pass of any MainNet between its blocks: drop rows, slice per-row tensors, put rows back.

The MainNet is wrapped, never copied: persistent hooks on its own modules do nothing unless a [`Run`] is active in the
current thread. The hooks stand at the segments of its [`Layout`], which says where tensors hold the rows. During a
run,

* a gate passes x_c to `run.visit`, which may select the rows to keep;
* every later segment gets its per-row arguments cut to the remaining rows;
* what a segment returns goes back to its place in the batch (zeros for rows that exited), so that code between
  segments always sees the whole batch; only what passes straight on to the next segment stays cut.

Several exits compose through two index sets: the rows that `visit` keeps index the remaining rows and slice what is
cut already; `run.rows` indexes the original batch and slices everything else. The state of a call is thread-local,
compiled or not, so threads do not see each other.
"""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from .errors import ArgumentError, StopForward
from .layout import ONE_FOR_ALL, Gate, Layout, Leaf, Segment


@dataclass
class Run:
    """State of one forward call.

    Args:
        visit (`Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor | None]`):
            Called between blocks with the number of blocks that ran, x_c of the remaining rows, and their batch
            positions (`None`: all rows). Returns the rows to keep, as indices into the remaining rows, or `None` for
            all of them; raises [`StopForward`] when no row remains.
        resume (`tuple[int, torch.Tensor]`, *optional*):
            A number of blocks, and x_c that replaces what those blocks pass on.
    """

    visit: Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor | None]
    resume: tuple[int, torch.Tensor] | None = None
    rows: torch.Tensor | None = None
    batch_size: int | None = None
    # Calls so far of each module that has several.
    calls: dict[str, int] = field(default_factory=dict)

    def count(self, module: str) -> int:
        """Return the number of a call of a module that has several."""
        number = self.calls.get(module, 0)
        self.calls[module] = number + 1
        return number


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


def current_run() -> Run | None:
    """Return the run of the calling thread."""
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


@dataclass(frozen=True)
class Hooked:
    """A segment as its hooks see it.

    Args:
        segment ([`Segment`]): the segment.
        given (`dict[str, Any]`): its arguments' [`Leaf`]s, nested as the arguments are.
        returned (`dict[str, Any]` or [`Leaf`]): the same for its outputs.
        before (`tuple[int, Gate]`, *optional*): number of blocks and gate at an argument.
        after (`tuple[int, Gate]`, *optional*): number of blocks and gate at an output.
    """

    segment: Segment
    given: Mapping[str, Any]
    returned: Any
    before: tuple[int, Gate] | None
    after: tuple[int, Gate] | None


def hooked_segments(layout: Layout) -> dict[str, list[Hooked]]:
    """Return, by module, the segments from the first gate on: before it, every row is there."""
    first = min(gate.segment for gate in layout.gates)
    before = {gate.segment: (k, gate) for k, gate in enumerate(layout.gates, start=1) if not gate.after}
    after = {gate.segment: (k, gate) for k, gate in enumerate(layout.gates, start=1) if gate.after}
    hooked: dict[str, list[Hooked]] = {}
    for i, segment in enumerate(layout.segments):
        if i >= first:
            one = Hooked(segment, _nest(segment.given), _nest(segment.returned), before.get(i), after.get(i))
            hooked.setdefault(segment.module, []).append(one)
    return hooked


def _nest(leaves: Mapping[str, Leaf]) -> Any:
    """Turn `{"a.0": leaf}` into `{"a": {"0": leaf}}`."""
    if "" in leaves:
        return leaves[""]
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        place = nested
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = leaf
    return nested


def install(mainnet: nn.Module, layout: Layout) -> None:
    """Install the hooks on the segments of a MainNet; does nothing if they are already there.

    Raises:
        ValueError: the MainNet already has gates at other places, or lacks a module.
    """
    hooked = hooked_segments(layout)
    missing = sorted(hooked.keys() - {name for name, _ in mainnet.named_modules()})
    if missing:
        raise ArgumentError("layout", f"must name modules of the MainNet, which has none called {missing[0]!r}")
    gated = {name: found for name, module in mainnet.named_modules() if (found := _segments_at(module)) is not None}
    if gated == hooked:
        return
    if gated and gated.keys() != hooked.keys():
        raise ArgumentError(
            "blocks",
            f"must match the places at which this MainNet is already split, {[*gated]}, got {[*hooked]}",
        )
    remove_gates(mainnet, own=True)
    for name, segments in hooked.items():
        install_segments(mainnet.get_submodule(name), segments)


def install_segments(module: nn.Module, segments: list[Hooked], names: tuple[str, ...] | None = None) -> None:
    """Install the hooks on one module.

    Args:
        module (`nn.Module`): the module, or its replacement.
        segments (`list[Hooked]`): the calls of this module that are segments.
        names (`tuple[str, ...]`, *optional*): names of its parameters, by default those of its `forward`.
    """
    names = parameter_names(module) if names is None else names
    module.register_forward_pre_hook(partial(_enter, segments=segments, names=names), with_kwargs=True)
    module.register_forward_hook(partial(_leave, segments=segments))


def remove_gates(mainnet: nn.Module, *, own: bool = False) -> None:
    """Remove the hooks: even idle ones cost time.

    Args:
        mainnet (`nn.Module`): the MainNet.
        own (`bool`): only those of this file, else also those of the copy that a checkpoint's own code brings.
    """
    for module in mainnet.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_gate(hook, own)]:
                del hooks[key]


def _is_gate(hook: Any, own: bool) -> bool:
    function = getattr(hook, "func", None)
    if own or function in (_enter, _leave):
        return function in (_enter, _leave)
    module = getattr(function, "__module__", None) or ""
    return module.rpartition(".")[-1] == "gate" and getattr(function, "__name__", "") in ("_enter", "_leave")


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's positional parameters; others are numbered."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, p in inspect.signature(module.forward).parameters.items() if p.kind in kinds)


def name_arguments(names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments by name; those without one by position."""
    return {names[i] if i < len(names) else str(i): value for i, value in enumerate(args)} | kwargs


Model = TypeVar("Model", bound=nn.Module)


def sharing_weights(mainnet: Model) -> Model:
    """Copy a MainNet, sharing its parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*mainnet.parameters(), *mainnet.buffers())}
    return copy.deepcopy(mainnet, memo=shared)


def is_gated(module: nn.Module) -> bool:
    """Return whether a module has the gates of this file."""
    return _segments_at(module) is not None


def _segments_at(module: nn.Module) -> list[Hooked] | None:
    hooks = (hook for hook in module._forward_pre_hooks.values() if getattr(hook, "func", None) is _enter)
    return next((hook.keywords["segments"] for hook in hooks), None)


def _which(segments: list[Hooked], run: Run, enters: bool) -> Hooked | None:
    """Return the segment that a call of a module is; `None` if it is none."""
    only = segments[0].segment
    if only.call is None:
        return segments[0]
    number = run.count(only.module) if enters else run.calls[only.module] - 1
    return next((one for one in segments if one.segment.call == number), None)


def _enter(module, args, kwargs=None, *, segments, names):
    # torch.ao's quantization puts hooks on the new module without the keywords; a linear layer has none.
    sees_keywords, kwargs = kwargs is not None, kwargs or {}
    run = current_run()
    if run is None:
        return None
    hooked = _which(segments, run, enters=True)
    if hooked is None:
        return None
    named = name_arguments(names, args, kwargs)
    kept = replaced = None
    if hooked.before is not None:
        number, gate = hooked.before
        hidden = get_part(named, gate.leaf)
        leaf = get_part(hooked.given, gate.leaf)
        if not leaf.cut:
            hidden = _cut(hidden, leaf, run, gate.leaf, None)
        kept, replaced = _pass_gate(run, number, gate, hidden, leaf.axis)
    if run.rows is None and replaced is None:
        return None
    # The given tensor becomes the replacement before anything is cut to the remaining rows.
    cut = {name: _cut(value, _part(hooked.given, name), run, name, kept) for name, value in named.items()}
    if replaced is not None and hooked.before is not None:
        cut = _put(cut, hooked.before[1].leaf, replaced)
    positional = tuple(cut.pop(names[i] if i < len(names) else str(i)) for i in range(len(args)))
    return (positional, cut) if sees_keywords else positional


def _leave(module, args, output, *, segments):
    run = current_run()
    if run is None:
        return None
    hooked = _which(segments, run, enters=False)
    if hooked is None:
        return None
    kept = None
    if hooked.after is not None:
        number, gate = hooked.after
        axis = get_part(hooked.returned, gate.leaf).axis
        kept, replaced = _pass_gate(run, number, gate, get_part(output, gate.leaf), axis)
        if replaced is not None:
            output = _put(output, gate.leaf, replaced)
    if run.rows is None:
        return output if hooked.after is not None else None
    return _restore(output, hooked.returned, run, kept)


@dataclass(frozen=True)
class Kept:
    """Rows that stay at a gate.

    Args:
        rows (`torch.Tensor` of shape `(kept,)`): indices into the rows that came.
        num_before (`int`): number of rows that came.
    """

    rows: torch.Tensor
    num_before: int

    def of(self, value: torch.Tensor, axis: int) -> torch.Tensor:
        """Select them from a tensor with the rows that came."""
        return value.index_select(axis, _entries(self.rows.to(value.device), value.shape[axis] // self.num_before))


def _entries(rows: torch.Tensor, fold: int) -> torch.Tensor:
    """Return the indices of rows with `fold` entries each."""
    return rows if fold == 1 else (rows.unsqueeze(1) * fold + torch.arange(fold, device=rows.device)).flatten()


def _pass_gate(
    run: Run, number: int, gate: Gate, hidden: torch.Tensor, axis: int
) -> tuple[Kept | None, torch.Tensor | None]:
    """Return the rows that stay, and what replaces x_c."""
    if run.resume is not None and number <= run.resume[0]:
        return None, gate.from_x_c(run.resume[1]) if number == run.resume[0] else None
    keep = run.visit(number, gate.to_x_c(hidden), run.rows)
    if keep is None:
        return None, None
    if run.batch_size is None:
        run.batch_size = hidden.shape[axis]
    run.rows = keep if run.rows is None else run.rows.index_select(0, keep.to(run.rows.device))
    return Kept(keep, hidden.shape[axis]), None


def _cut(value: Any, spec: Any, run: Run, path: str, kept: Kept | None) -> Any:
    """Cut per-row tensors to the remaining rows; what rows share passes unchanged.

    Args:
        kept ([`Kept`], *optional*): rows that stay of what is cut already.
    """
    if isinstance(value, torch.Tensor):
        if run.rows is None:
            return value
        if spec is None:
            raise ValueError(
                f"block argument {path!r} of shape {tuple(value.shape)} was not there when this MainNet was observed, "
                "so it may or may not have one entry per row. Leave that input out, or attach the SideNets again."
            )
        if spec.cut:
            return value if kept is None else kept.of(value, spec.axis)
        return _select(value, spec.axis, run, path)
    if not isinstance(value, tuple | list | Mapping) or isinstance(value, torch.Size) or not value:
        return value
    return _map(value, lambda key, item: _cut(item, _part(spec, key), run, f"{path}.{key}", kept))


def _select(value: torch.Tensor, axis: int | None, run: Run, path: str) -> torch.Tensor:
    """Select the remaining rows of a tensor with the whole batch."""
    assert run.rows is not None  # Rows left before.
    assert run.batch_size is not None
    if axis is None:
        return value
    axis = 0 if axis == ONE_FOR_ALL else axis
    if value.shape[axis] == 1:
        return value
    if value.shape[axis] % run.batch_size:
        raise ValueError(
            f"block argument {path!r} must have one entry per row, {run.batch_size}, or one for all on axis {axis}, "
            f"got shape {tuple(value.shape)}."
        )
    return value.index_select(axis, _entries(run.rows.to(value.device), value.shape[axis] // run.batch_size))


def _restore(value: Any, spec: Any, run: Run, kept: Kept | None) -> Any:
    """Put rows back to their places in the batch, zeros for those that exited.

    Args:
        kept ([`Kept`], *optional*): rows that stay of what the segment returned.
    """
    if isinstance(value, torch.Tensor):
        if spec is None or spec.axis is None or spec.axis == ONE_FOR_ALL:
            return value
        assert run.rows is not None  # Rows left before.
        assert run.batch_size is not None
        if kept is not None:
            value = kept.of(value, spec.axis)
        if spec.cut:
            return value
        fold = value.shape[spec.axis] // run.rows.shape[0]
        shape = list(value.shape)
        shape[spec.axis] = run.batch_size * fold
        return value.new_zeros(shape).index_copy(spec.axis, _entries(run.rows.to(value.device), fold), value)
    if not isinstance(value, tuple | list | Mapping) or isinstance(value, torch.Size) or not value:
        return value
    return _map(value, lambda key, item: _restore(item, _part(spec, key), run, kept))


def _part(spec: Any, key: Any) -> Any:
    return spec.get(str(key)) if isinstance(spec, Mapping) else None


def _map(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Change the items of a tuple, a list or a mapping."""
    if type(value) is dict:
        return {key: change(key, item) for key, item in value.items()}
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key, item in value.items():
            changed[key] = change(key, item)
        return changed
    items = [change(i, item) for i, item in enumerate(value)]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def get_part(value: Any, path: str) -> Any:
    """Return a part of nested arguments or outputs."""
    for key in path.split(".") if path else []:
        value = value[key] if isinstance(value, Mapping) else value[int(key)]
    return value


def _put(value: Any, path: str, new: Any) -> Any:
    if not path:
        return new
    first, _, rest = path.partition(".")
    return _map(value, lambda key, item: _put(item, rest, new) if str(key) == first else item)


def has_sharded_parameters(module: nn.Module) -> bool:
    """Return whether FSDP (1 or 2) or DeepSpeed ZeRO-3 gathers parts of `module` during its forward pass."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(child, FullyShardedDataParallel) for child in module.modules()) or any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters()
    )
