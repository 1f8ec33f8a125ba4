# SPDX-License-Identifier: Apache-2.0
"""Learn where a MainNet can be split by watching it answer example rows: no tables of names, no code per model.

1. One call shows which module calls do the work. They are grouped into blocks, see [`find_units`]; what lies around
   and between them is covered by the outermost other calls. All these calls are the segments.
2. Calls with 3 and with 5 rows, and with longer texts, show which axis of every tensor follows the rows, and which the
   tokens.
3. Whatever operation between segments reads a tensor is seen too. So it is known what passes straight from one segment
   to the next, and on which segments something behind a gate depends.

Whether the result is right is decided by the self-test, which lets rows leave and compares the answers of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .blocks import Differs, answer, cover, find_units, group, timm_stages, trace_calls
from .errors import ArgumentError
from .gate import name_arguments, parameter_names
from .layout import ONE_FOR_ALL, Gate, Layout, Leaf, Segment, walk
from .modalities import PROBE_LENGTHS, PROBE_LONGER, PROBE_LONGER_MORE_ROWS, PROBE_MORE_ROWS


_SHAPE: Any = torch.Tensor.shape
# Ways to ask for the number of rows.
SHAPES = frozenset({_SHAPE.__get__, torch.Tensor.size, torch.Tensor.__len__, torch.Tensor.numel})


@dataclass
class Seen:
    """What one call of a MainNet shows.

    Args:
        given (`list[dict[str, Any]]`): by segment, its arguments' tensors and unknown objects.
        returned (`list[dict[str, Any]]`): the same for its outputs.
        reads (`list[tuple[int, frozenset]]`):
            For everything that is read: when, as the number of segments that ran, and the outputs `(segment, path)`
            that it depends on.
        direct (`dict[tuple[int, str], set[int]]`): who reads an output itself or its shape, -1 for other code.
        sources (`list[dict[str, frozenset]]`): by segment, the outputs on which each argument depends.
        came (`list[dict[str, tuple[int, str]]]`): by segment, the output that an argument is, unchanged.
        outputs (`list[Any]`): by segment, what it returned.
    """

    given: list[dict[str, Any]] = field(default_factory=list)
    returned: list[dict[str, Any]] = field(default_factory=list)
    reads: list[tuple[int, frozenset]] = field(default_factory=list)
    direct: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    sources: list[dict[str, frozenset]] = field(default_factory=list)
    came: list[dict[str, tuple[int, str]]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Follows tensors through the code between segments."""

    def __init__(self, seen: Seen):
        super().__init__()
        self.seen = seen
        self.inside = False
        # Kept alive, so that no other tensor gets the same id.
        self.alive: list[Any] = []
        self.sources: dict[int, frozenset] = {}
        self.producer: dict[int, tuple[int, str]] = {}

    def read(self, value: torch.Tensor, reader: int) -> frozenset:
        """Note that a tensor is read."""
        found = self.sources.get(id(value), frozenset())
        if found:
            self.seen.reads.append((len(self.seen.given), found))
        self.look_at(value, reader)
        return found

    def look_at(self, value: torch.Tensor, reader: int) -> None:
        """Note that a tensor, or its shape alone, is looked at."""
        if id(value) in self.producer:
            self.seen.direct.setdefault(self.producer[id(value)], set()).add(reader)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.inside:
            return out
        found: frozenset = frozenset()
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor):
                found |= self.read(value, -1)
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self.alive.append(value)
                self.sources[id(value)] = found
                self.producer.pop(id(value), None)
        return out


class _WatchShapes(TorchFunctionMode):
    """Notes whose shape the code between segments looks at, which is no operation: T5 makes masks of that shape."""

    def __init__(self, mode: _Watch):
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SHAPES and not self.mode.inside:
            self.mode.look_at(args[0], -1)
        return func(*args, **(kwargs or {}))


def watch(mainnet: nn.Module, segments: Sequence[tuple[str, int]], inputs: Mapping[str, Any]) -> Seen:
    """Record the tensors that enter and leave the segments during one call.

    Args:
        mainnet (`nn.Module`): a copy of the MainNet, to which hooks are added.
        segments (`Sequence[tuple[str, int]]`): module and number of each call.
        inputs (`dict[str, torch.Tensor]`): example rows.

    Raises:
        Differs: other segments run on these rows, or in another order.
        ValueError: the MainNet fails.
    """
    seen = Seen()
    mode = _Watch(seen)
    known = set(segments)
    numbers: dict[str, int] = {}
    open_calls: list[bool] = []

    def enter(name: str, names: tuple[str, ...]) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            number = numbers.get(name, 0)
            numbers[name] = number + 1
            is_segment = not mode.inside and (name, number) in known
            open_calls.append(is_segment)
            if not is_segment:
                return
            index = len(seen.given)
            if index >= len(segments) or segments[index] != (name, number):
                raise Differs(f"{name} runs in another order")
            leaves = dict(walk(name_arguments(names, args, kwargs)))
            tensors = {path: x for path, x in leaves.items() if isinstance(x, torch.Tensor)}
            seen.sources.append({path: mode.read(x, index) for path, x in tensors.items()})
            seen.came.append({p: mode.producer[id(x)] for p, x in tensors.items() if id(x) in mode.producer})
            seen.given.append(leaves)
            mode.alive.append(leaves)
            mode.inside = True

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if not open_calls.pop():
            return
        mode.inside = False
        leaves = dict(walk(output))
        index = len(seen.returned)
        seen.returned.append(leaves)
        seen.outputs.append(output)
        mode.alive.append(leaves)
        first_path: dict[int, str] = {}
        for path, value in leaves.items():
            if isinstance(value, torch.Tensor):
                # The same tensor may be returned twice.
                source = index, first_path.setdefault(id(value), path)
                mode.sources[id(value)] = frozenset({source})
                mode.producer[id(value)] = source

    handles = []
    for name in {name for name, _ in segments}:
        module = mainnet.get_submodule(name)
        hook = enter(name, parameter_names(module))
        handles += [
            module.register_forward_pre_hook(hook, with_kwargs=True),
            module.register_forward_hook(leave),
        ]
    try:
        with _WatchShapes(mode), mode:
            logits = answer(mainnet, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(seen.given) != len(segments):
        raise Differs(f"{len(seen.given)} of {len(segments)} parts run")
    mode.read(logits, -1)
    return seen


@torch.no_grad()
def observe(
    mainnet: nn.Module,
    examples: Callable[[Sequence[int]], dict[str, Any]],
    path: str | None,
    *,
    has_tokens: bool,
    check_logits: Callable[[torch.Tensor], None] | None = None,
    with_optional: Callable[[Sequence[int], int | None], dict[str, Any] | None] | None = None,
) -> Layout:
    """Watch a MainNet answer example rows, and return where it can be split.

    Args:
        mainnet (`nn.Module`): a copy of a task model in evaluation mode, to which hooks are added for a while.
        examples (`Callable`): makes its inputs for rows of these lengths.
        path (`str`, *optional*): see [`find_units`].
        has_tokens (`bool`): rows are texts of different lengths.
        check_logits (`Callable`, *optional*): raises if the logits of the first rows are not what they should be.
        with_optional (`Callable`, *optional*):
            Makes inputs with those that may be left out, of the lengths and the number of vectors per row; `None` if
            the MainNet takes no others.

    Raises:
        ValueError: it has no blocks, or its tensors hold the rows in a way that cannot be followed.
    """
    first = examples(PROBE_LENGTHS)
    root, logits = trace_calls(mainnet, first)
    if check_logits is not None:
        check_logits(logits)
    units = find_units(mainnet, root, path)
    parts = cover(root, units)
    blocks = group(parts)
    if len(blocks) < 2:
        ran = [name for name, _, _ in blocks] or "none"
        raise ArgumentError("blocks", f"must name modules that run, but of {units} {ran} did")
    numbers = [(one.name, one.number) for one, _ in parts]

    def compare(few: Mapping[str, Any], many: Mapping[str, Any]) -> tuple[Seen, Seen]:
        return watch(mainnet, numbers, few), watch(mainnet, numbers, many)

    try:
        pairs = [compare(first, examples(PROBE_MORE_ROWS))]
        if has_tokens:
            # Some arguments are there for some lengths only.
            pairs.append(compare(examples(PROBE_LONGER), examples(PROBE_LONGER_MORE_ROWS)))
    except Differs as error:
        raise ValueError(
            f"{type(mainnet).__name__} cannot be split: with other rows, {error}. Name another list with `blocks=`."
        ) from error
    if with_optional is not None:
        vectors = _vectors_per_row(pairs[0][0].given[blocks[1][1]])
        few, many = with_optional(PROBE_LENGTHS, vectors), with_optional(PROBE_MORE_ROWS, vectors)
        if few is not None and many is not None:
            # A MainNet may want them in another form: then they stay unknown, and are refused when a row exits.
            with suppress(ValueError, Differs):
                pairs.append(compare(few, many))
    segments = _segments(numbers, [unit for _, unit in parts], pairs)
    after = units == timm_stages(mainnet)
    sights = [few for few, _ in pairs]
    longer = sights[1] if has_tokens else None
    gates = [_gate(segments, blocks, k, sights, longer, prefers_output=after) for k in range(1, len(blocks))]
    for i in range(min(gate.segment for gate in gates), len(segments)):
        for seen, _ in pairs:
            _check_objects(numbers[i][0], seen.given[i])
    return Layout([name for name, _, _ in blocks], gates, segments)


def _vectors_per_row(given: dict[str, Any]) -> int | None:
    """Return the length of the first sequence of vectors among a segment's arguments."""
    tensors = (x for x in given.values() if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() == 3)
    return next((x.shape[1] for x in tensors), None)


def _segments(
    numbers: list[tuple[str, int]], units: list[str | None], pairs: Sequence[tuple[Seen, Seen]]
) -> list[Segment]:
    several = {name for name, number in numbers if number > 0}
    segments: list[Segment] = []
    cut: set[tuple[int, str]] = set()
    for i, (name, number) in enumerate(numbers):
        given: dict[str, Leaf] = {}
        returned: dict[str, Leaf] = {}
        for few, many in reversed(pairs):
            given |= _leaves(name, few.given[i], many.given[i])
            returned |= _leaves(name, few.returned[i], many.returned[i])
        for path, leaf in given.items():
            given[path] = replace(leaf, cut=any(few.came[i].get(path, (-1, "")) in cut for few, _ in pairs))
        for path, leaf in returned.items():
            readers = set[int]()
            for few, _ in pairs:
                source = _same(few.returned[i]).get(path, path)
                readers |= few.direct.get((i, source), set())
            if leaf.axis not in (None, ONE_FOR_ALL) and readers <= {i + 1}:
                cut.add((i, path))
                returned[path] = replace(leaf, cut=True)
        if all(leaf.axis in (None, ONE_FOR_ALL) for leaf in given.values()):
            # Made for the whole batch, as queries for a given number of rows are.
            returned = dict.fromkeys(returned, Leaf(None))
            cut -= {(i, path) for path in returned}
        depends = {j for few, _ in pairs for found in few.sources[i].values() for j, _ in found}
        reruns = units[i] is None and all(segments[j].reruns for j in depends)
        like = _imitation(*pairs[0], i)
        segments.append(Segment(name, number if name in several else None, given, returned, reruns, like))
    return segments


def _same(leaves: dict[str, Any]) -> dict[str, str]:
    """Return, for every path, the first with the same tensor."""
    first: dict[int, str] = {}
    return {path: str(first.setdefault(id(value), path)) for path, value in leaves.items()}


def _leaves(name: str, few: dict[str, Any], many: dict[str, Any]) -> dict[str, Leaf]:
    return {
        path: Leaf(_axis(name, path, value.shape, many[path].shape))
        for path, value in few.items()
        if isinstance(value, torch.Tensor) and isinstance(many.get(path), torch.Tensor)
    }


def _axis(name: str, path: str, few: torch.Size, many: torch.Size) -> int | None:
    """Return the axis that follows the number of rows."""
    moved = [i for i, (one, other) in enumerate(zip(few, many, strict=False)) if one != other]
    if not moved and len(few) == len(many):
        return ONE_FOR_ALL if len(few) > 1 and few[0] == 1 else None
    (rows, more), axis = (len(PROBE_LENGTHS), len(PROBE_MORE_ROWS)), moved[0] if moved else 0
    if len(moved) > 1 or len(few) != len(many) or few[axis] * more != many[axis] * rows or few[axis] % rows:
        raise ValueError(
            f"`{path or 'output'}` of {name} must hold the rows on one axis, but it has shape {tuple(few)} for {rows} "
            f"rows and {tuple(many)} for {more}."
        )
    return axis


def _imitation(few: Seen, many: Seen, i: int) -> Any:
    """Return the form of an output whose tensors all have the shape of an argument; see [`Segment`]."""

    def like(path: str, value: torch.Tensor) -> str | None:
        for name, given in few.given[i].items():
            then: Any = many.returned[i].get(path)
            other: Any = many.given[i].get(name)
            if not all(isinstance(x, torch.Tensor) for x in (given, then, other)) or value.dtype != given.dtype:
                continue
            if value.shape == given.shape and then.shape == other.shape:
                return name
        return None

    def form(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            found = like(path, value)
            if found is None:
                raise LookupError(path)
            return found
        if type(value) in (tuple, list):
            return [form(item, f"{path}.{k}" if path else str(k)) for k, item in enumerate(value)]
        if value is not None:
            raise LookupError(path)
        return None

    try:
        return form(few.outputs[i], "")
    except LookupError:
        return None


def _check_objects(name: str, given: dict[str, Any]) -> None:
    for path, value in given.items():
        # A key-value cache made for this call alone, of which each layer fills and reads its own part.
        if not isinstance(value, torch.Tensor) and not type(value).__name__.endswith("Cache"):
            raise ValueError(
                f"argument {path!r} of {name} is a {type(value).__name__}, and it is unknown which of its parts "
                "belong to the rows that exit. A MainNet with per-row objects cannot be split."
            )


def _gate(
    segments: list[Segment],
    blocks: list[tuple[str, int, int]],
    k: int,
    sights: Sequence[Seen],
    longer: Seen | None,
    *,
    prefers_output: bool,
) -> Gate:
    """Place the gate between blocks k and k + 1.

    x_c is the first argument of the next block that depends on what the block returned, because a model may still
    combine a block's input and output afterward (DeBERTa). Where there is none, as between an encoder and its decoder,
    and for timm's stages, it is the block's output.
    """
    (_, start, end), (_, next_start, _) = blocks[k - 1], blocks[k]
    seen = sights[0]
    ahead = set(range(start, next_start))

    def of_argument() -> tuple[int, str, bool] | None:
        for path, leaf in segments[next_start].given.items():
            depends = {j for j, _ in seen.sources[next_start].get(path, frozenset())}
            if depends & ahead and _fits(seen.given[next_start].get(path), leaf):
                return next_start, path, False
        return None

    def of_output(j: int) -> tuple[int, str, bool] | None:
        for path, leaf in segments[j].returned.items():
            if _fits(seen.returned[j].get(path), leaf):
                return j, path, True
        return None

    def of_last_map() -> tuple[int, str, bool] | None:
        """The head takes a vector, and activations may have overwritten what the block returned (VGG)."""
        for j in range(next_start - 1, end, -1):
            depends = {i for found in seen.sources[j].values() for i, _ in found}
            if longer is None and depends & ahead and of_output(j) is not None:
                return of_output(j)
        return None

    found = of_output(end) or of_argument() if prefers_output else of_argument() or of_last_map() or of_output(end)
    if found is None:
        raise ValueError(
            f"block {blocks[k - 1][0]} must pass on a tensor with one entry per row to take a SideNet, but passes "
            f"{ {path: tuple(x.shape) for path, x in seen.returned[end].items() if isinstance(x, torch.Tensor)} }."
        )
    index, path, after = found

    def at(one: Seen) -> Any:
        return (one.returned if after else one.given)[index].get(path)

    leaf = (segments[index].returned if after else segments[index].given)[path]
    assert leaf.axis is not None  # It fits.
    order, fits_mask = _order(at(seen), leaf.axis, None if longer is None else at(longer))
    gate = Gate(index, path, after, order, fits_mask)
    needs = {j for one in sights for j in _needs(gate, one)}
    again = {j for j in needs if segments[j].reruns}
    for j in range(len(segments) - 1, -1, -1):
        if j in again:
            again |= {i for one in sights for found in one.sources[j].values() for i, _ in found}
    return replace(gate, needs=tuple(sorted(again)), carries=tuple(sorted(needs - again)))


def _fits(value: Any, leaf: Leaf) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and leaf.axis is not None
        and leaf.axis != ONE_FOR_ALL
        and value.dim() >= 3
        and value.shape[leaf.axis] == len(PROBE_LENGTHS)
    )


def _order(value: torch.Tensor, axis: int, longer: torch.Tensor | None) -> tuple[tuple[int, ...], bool]:
    """Return the order of axes for a SideNet, and whether a mask of the tokens fits."""
    rest = [i for i in range(value.dim()) if i != axis]
    if longer is None:
        sizes = [value.shape[i] for i in rest]
        # Square images give square maps.
        if len(sizes) == 3 and sizes[0] == sizes[1] != sizes[2]:
            rest = [rest[2], rest[0], rest[1]]
        return (axis, *rest), True
    moved = [i for i in rest if value.shape[i] != longer.shape[i]]
    if len(moved) == 1:
        rest = [moved[0], *(i for i in rest if i != moved[0])]
    lengths = [(value.shape[i], longer.shape[i]) for i in moved]
    return (axis, *rest), lengths == [(max(PROBE_LENGTHS), max(PROBE_LONGER))]


def _needs(gate: Gate, seen: Seen) -> set[int]:
    """Return the segments in front of a gate whose outputs are read behind it, besides x_c."""
    boundary = gate.segment + 1 if gate.after else gate.segment
    found: set[tuple[int, str]] = set()
    for time, sources in seen.reads:
        if time > boundary or (time == boundary and gate.after):
            found |= sources
    if not gate.after:
        for path, sources in seen.sources[boundary].items():
            found |= sources if path != gate.leaf else frozenset()
    passed = {(gate.segment, gate.leaf)} if gate.after else set()
    return {i for i, path in found - passed if i < boundary}
