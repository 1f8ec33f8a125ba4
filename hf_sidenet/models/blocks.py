# SPDX-License-Identifier: Apache-2.0
"""Find the blocks of a MainNet: the calls of modules that do the work, as what users call layers or stages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


# A call with more of the FLOPs than this is looked into, one with less than this is no block of its own.
LARGE, SMALL = 0.3, 0.01
# First entries of timm's `feature_info` that are the stem, not a stage. Checkpoints count blocks without them.
TIMM_STEMS = frozenset(
    {
        "stem", "act1", "bn1", "conv1", "conv_stem", "layer0", "level0", "features.norm0", "features.conv1_1",
        "Conv2d_2b_3x3",
    }
)  # fmt: skip
# An element of a list with more than this is not one of several blocks.
WHOLE = 0.5


@dataclass
class Call:
    """One call of a module, while a MainNet runs."""

    name: str
    number: int
    children: list["Call"] = field(default_factory=list)
    flops: int = 0
    # Whether it returns one vector per row.
    is_vector: bool = False

    def walk(self) -> Iterator["Call"]:
        """Yield this call and all within it, in the order in which they begin."""
        yield self
        for child in self.children:
            yield from child.walk()


class Differs(Exception):
    """Another call runs other modules."""


def answer(mainnet: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Return the logits of example rows.

    Raises:
        ValueError: the MainNet fails, or gives none.
    """
    try:
        output = mainnet(**inputs, return_dict=True)
    except Differs:
        raise
    # Whatever a MainNet raises.
    except Exception as error:
        tried = ", ".join(f"{name} {tuple(x.shape)}" for name, x in inputs.items() if isinstance(x, torch.Tensor))
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{type(mainnet).__name__} cannot be checked: it fails on example rows, {tried} ({reason})."
        ) from error
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"a MainNet must be a classifier with logits of shape (batch, num_labels); {type(mainnet).__name__} "
            f"returns {None if logits is None else type(logits).__name__}."
        )
    return logits


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count FLOPs, with attention as two matrix products, so that the device's kernel does not affect the count."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def trace_calls(mainnet: nn.Module, inputs: Mapping[str, Any]) -> tuple[Call, torch.Tensor]:
    """Record the calls of all modules, and their FLOPs, during one call of a MainNet.

    Args:
        mainnet (`nn.Module`): a copy of the MainNet, to which hooks are added.
        inputs (`dict[str, torch.Tensor]`): example rows.
    """
    root = Call("", 0)
    stack, numbers = [root], dict[str, int]()

    def enter(name: str) -> Callable:
        def hook(*_: Any) -> None:
            number = numbers.get(name, 0)
            numbers[name] = number + 1
            one = Call(name, number, flops=-counter.get_total_flops())
            stack[-1].children.append(one)
            stack.append(one)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        one = stack.pop()
        one.flops += counter.get_total_flops()
        one.is_vector = isinstance(output, torch.Tensor) and output.ndim <= 2

    handles = []
    for name, module in mainnet.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        # With gradients, without which the counter fails on some modules that return tuples (PiT).
        with torch.inference_mode(False), torch.enable_grad(), counting_flops() as counter:
            logits = answer(mainnet, inputs)
    finally:
        for handle in handles:
            handle.remove()
    root.flops = counter.get_total_flops()
    return root, logits.detach()


def find_units(mainnet: nn.Module, root: Call, path: str | None) -> list[str]:
    """Return the names of the modules that are blocks.

    1. The elements of the list that `path` names.
    2. timm: the stages that the model itself names in `feature_info`, without the stem.
    3. The elements of the MainNet's only outermost `ModuleList`, if each is called once, in order.
    4. Else by work: from the MainNet down, a call with more than 30 % of the FLOPs is replaced by the calls within it;
       an element of a list stands for all that is called within it. What returns one vector per row is the last.

    Args:
        mainnet (`nn.Module`): a task model.
        root ([`Call`]): record of one call.
        path (`str`, *optional*): name of a `ModuleList` or `Sequential`, or its end (`"encoder.layer"`).

    Raises:
        ValueError: `path` does not name exactly one list, or there are fewer than two blocks.
    """
    lists = {
        name: module
        for name, module in mainnet.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) >= 2
    }
    if path is not None:
        found = [name for name in lists if name == path or name.endswith("." + path)]
        if len(found) != 1:
            raise ValueError(
                f"`blocks={path!r}` must name exactly one ModuleList or Sequential with at least 2 modules; found "
                f"{found or 'none'}, candidates are {list(lists) or 'none'}."
            )
        return _elements(found[0], lists[found[0]])
    called = [call.name for call in root.walk()]
    outer = [name for name, module in lists.items() if isinstance(module, nn.ModuleList)]
    # Not a list that never runs, such as a vision tower's.
    outer = [name for name in outer if any(one.startswith(f"{name}.") for one in called)]
    outer = [name for name in outer if not any(name.startswith(f"{other}.") for other in outer)]
    for units in (timm_stages(mainnet), _elements(outer[0], lists[outer[0]]) if len(outer) == 1 else []):
        if len(units) >= 2 and [name for name in called if name in units] == units:
            return units
    units = list(dict.fromkeys(_lift(list(_by_work(root, root.flops)), root, lists)))
    vectors = {call.name for call in root.walk() if call.is_vector}
    # The head, if it is large (AlexNet): it is one block, the last.
    head = next((i for i, name in enumerate(units) if name in vectors), len(units))
    units = units[: head + 1]
    if len(units) < 2 and sum(name in units for name in called) < 2:
        raise ValueError(
            f"{type(mainnet).__name__} must have at least 2 blocks, parts that run one after the other and do the "
            f'work, found {units or "none"}. If there is a list of them, name it: `blocks="encoder.layer"`; '
            f"candidates are {list(lists) or 'none'}."
        )
    return units


def _elements(name: str, modules: nn.ModuleList | nn.Sequential) -> list[str]:
    return [f"{name}.{key}" for key, _ in modules.named_children()]


def timm_stages(mainnet: nn.Module) -> list[str]:
    """Return the stages that a timm model names in `feature_info`, without the stem; none if it has none."""
    model = getattr(mainnet, "timm_model", None)
    names = [info["module"] for info in getattr(model, "feature_info", None) or []]
    if names and (names[0] in TIMM_STEMS or names[0].split(".")[0] in TIMM_STEMS):
        names = names[1:]
    return [f"timm_model.{name}" for name in names]


def _by_work(call: Call, total: int) -> Iterator[str]:
    """Yield the modules that do the work, in order; see [`find_units`]."""
    for child in call.children:
        inner = sum(one.flops for one in child.children)
        if child.flops > LARGE * total and inner > child.flops / 2:
            yield from _by_work(child, total)
        elif child.flops >= SMALL * total and child.flops > 0:
            yield child.name


def _lift(names: list[str], root: Call, lists: Mapping[str, nn.Module]) -> list[str]:
    """Replace modules by the outermost element of a list that they lie in, unless that does most of the work."""
    work: dict[str, int] = {}

    def add(call: Call, inside: frozenset[str]) -> None:
        parts = call.name.split(".") if call.name else []
        prefixes = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
        for prefix in prefixes - inside:
            work[prefix] = work.get(prefix, 0) + call.flops
        for child in call.children:
            add(child, inside | prefixes)

    add(root, frozenset())
    lifted = []
    for name in names:
        parts = name.split(".")
        prefixes = [".".join(parts[:i]) for i in range(2, len(parts) + 1)]
        elements = (
            prefix
            for prefix in prefixes
            if prefix.rpartition(".")[0] in lists and work.get(prefix, 0) <= WHOLE * root.flops
        )
        lifted.append(next(elements, name))
    return lifted


def cover(root: Call, units: Sequence[str]) -> list[tuple[Call, str | None]]:
    """Return the segments, in order, with the unit that each belongs to.

    Calls of units, and the outermost calls that neither lie in a unit nor contain one. A unit whose own `forward` is
    called without its hooks is covered by the calls within it.
    """
    known = set(units)

    def unit_of(name: str) -> str | None:
        parts = name.split(".")
        prefixes = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        return next((prefix for prefix in prefixes if prefix in known), None)

    def choose(call: Call) -> Iterator[tuple[Call, str | None]]:
        unit = unit_of(call.name) if call.name else None
        if unit is not None:
            yield call, unit
        elif any(unit_of(inner.name) for inner in call.walk() if inner.name):
            for child in call.children:
                yield from choose(child)
        else:
            yield call, None

    return list(choose(root))


def group(segments: Sequence[tuple[Call, str | None]]) -> list[tuple[str, int, int]]:
    """Return the blocks: name, first and last segment. Every call of a unit is one."""
    blocks: list[tuple[str, int, int]] = []
    for i, (call, unit) in enumerate(segments):
        if unit is None:
            continue
        continues = blocks and blocks[-1][0] == unit and blocks[-1][2] == i - 1 and call.name != unit
        if continues:
            blocks[-1] = (unit, blocks[-1][1], i)
        else:
            blocks.append((unit, i, i))
    return blocks
