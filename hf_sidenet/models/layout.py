# SPDX-License-Identifier: Apache-2.0
"""Layout of a MainNet, as observed: its segments, where their tensors hold the rows, its blocks and its gates.

A segment is one call of a module. Between segments runs code that no module call covers; it always sees the whole
batch. A block is what users call a layer or a stage: one segment or more, with a gate in front of every block but the
first.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .errors import ArgumentError


# Of what a config records.
VERSION = 1
ONE_FOR_ALL = -1


@dataclass(frozen=True)
class Leaf:
    """One tensor that enters or leaves a segment.

    Args:
        axis (`int`, *optional*): axis of the rows, which may be folded with others (heads, windows); `None` if all
            rows share the tensor, `ONE_FOR_ALL` if its first axis had one entry for all, but may have one per row.
        cut (`bool`): it passes from one segment to the next and to nothing else, so that it keeps only the rows that
            remain.
    """

    axis: int | None
    cut: bool = False


@dataclass(frozen=True)
class Segment:
    """One call of a module.

    Args:
        module (`str`): name of the module in the MainNet.
        call (`int`, *optional*): number of the call, from 0; `None` if there is only one.
        given (`dict[str, Leaf]`): its arguments, by parameter name; parts of an argument as `"name.0"`.
        returned (`dict[str, Leaf]`): its outputs, by position; `""` for a single tensor.
        reruns (`bool`): depends on the MainNet's inputs alone, not on what a block returned.
        like (`str` or `list`, *optional*): form of an output whose tensors have the shapes of arguments: their names,
            nested in lists as the tensors are in tuples.
    """

    module: str
    call: int | None
    given: dict[str, Leaf]
    returned: dict[str, Leaf]
    reruns: bool = False
    like: Any = None


@dataclass(frozen=True)
class Gate:
    """Place between two blocks, where rows may leave.

    Args:
        segment (`int`): index of a segment.
        leaf (`str`): its argument or output that is x_c.
        after (`bool`): x_c is an output of the segment, else an argument.
        order (`tuple[int, ...]`): order of x_c's axes for a SideNet: rows, then tokens or the channels of a map.
        fits_mask (`bool`): for texts, whether x_c has one vector per token, as the attention mask has entries. Where
            it has not, a SideNet reads the first vector alone, and x_c cannot be padded and trimmed with the texts.
        needs (`tuple[int, ...]`): segments in front of the gate that must run again to start behind it.
        carries (`tuple[int, ...]`): segments in front of the gate whose outputs are used behind it, besides x_c, and
            that cannot run again.
    """

    segment: int
    leaf: str
    after: bool
    order: tuple[int, ...]
    fits_mask: bool
    needs: tuple[int, ...] = ()
    carries: tuple[int, ...] = ()

    def to_x_c(self, value: torch.Tensor) -> torch.Tensor:
        """Return x_c `(rows, ...)` of a tensor in the MainNet's own order."""
        return value if _is_sorted(self.order) else value.permute(self.order)

    def from_x_c(self, x_c: torch.Tensor) -> torch.Tensor:
        """Undo [`~Gate.to_x_c`]."""
        return x_c if _is_sorted(self.order) else x_c.permute(tuple(map(self.order.index, range(len(self.order)))))


def _is_sorted(order: tuple[int, ...]) -> bool:
    return order == tuple(range(len(order)))


@dataclass(frozen=True)
class Layout:
    """Where a MainNet can be split.

    Args:
        blocks (`list[str]`): names of the blocks, in the order in which they run.
        gates (`list[Gate]`): gate k stands between blocks k and k + 1.
        segments (`list[Segment]`): every segment, in order.
    """

    blocks: list[str]
    gates: list[Gate]
    segments: list[Segment]

    def to_dict(self) -> dict[str, Any]:
        """Return what a config records."""
        recorded: dict[str, Any] = {
            "version": VERSION,
            "blocks": self.blocks,
            "gates": [_plain(vars(gate)) for gate in self.gates],
            "segments": [
                {
                    "module": segment.module,
                    "call": segment.call,
                    "given": _to_plain(segment.given),
                    "returned": _to_plain(segment.returned),
                    "reruns": segment.reruns,
                    "like": segment.like,
                }
                for segment in self.segments
            ],
        }
        return recorded | {"digest": _digest(recorded)}

    @classmethod
    def from_dict(cls, recorded: Mapping[str, Any]) -> "Layout":
        """Read what a config records.

        Raises:
            ValueError: it is damaged, or of a later version of this package.
        """
        version = recorded.get("version") if isinstance(recorded, Mapping) else recorded
        if version != VERSION:
            raise ArgumentError(
                "layout",
                f"must have version {VERSION}",
                version,
                advice="A later hf_sidenet may have written this checkpoint: upgrade.",
            )
        whole = {name: value for name, value in recorded.items() if name != "digest"}
        if recorded.get("digest") != _digest(whole):
            raise ValueError("`layout` is damaged: it is not what was observed. Attach the SideNets again.")
        return cls(
            recorded["blocks"],
            [
                Gate(
                    gate["segment"],
                    gate["leaf"],
                    gate["after"],
                    tuple(gate["order"]),
                    gate["fits_mask"],
                    tuple(gate["needs"]),
                    tuple(gate["carries"]),
                )
                for gate in recorded["gates"]
            ],
            [
                Segment(
                    segment["module"],
                    segment["call"],
                    _from_plain(segment["given"]),
                    _from_plain(segment["returned"]),
                    segment["reruns"],
                    segment["like"],
                )
                for segment in recorded["segments"]
            ],
        )


def _digest(recorded: Mapping[str, Any]) -> str:
    text = json.dumps(recorded, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _to_plain(leaves: dict[str, Leaf]) -> dict[str, Any]:
    return {path: [leaf.axis] if leaf.cut else leaf.axis for path, leaf in leaves.items()}


def _from_plain(leaves: Mapping[str, Any]) -> dict[str, Leaf]:
    return {
        path: Leaf(value[0], True) if isinstance(value, list) else Leaf(value, False) for path, value in leaves.items()
    }


def walk(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """List the tensors, and the objects that may hide some, in nested arguments or outputs, with their paths."""
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device | slice):
        return []
    # A `torch.Size` is a tuple of numbers.
    if isinstance(value, tuple | list):
        items: list[tuple[Any, Any]] = list(enumerate(value))
    elif isinstance(value, Mapping):
        items = list(value.items())
    else:
        return [(path, value)]
    return [leaf for key, item in items for leaf in walk(item, f"{path}.{key}" if path else str(key))]
