# SPDX-License-Identifier: Apache-2.0
"""What a benchmark compares: methods to answer rows, each with the method it has to beat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..inference.protocols import StageChain
from ..inference.rows import Prediction, Row
from ..models.errors import ArgumentError


GROUPS = PLAIN, RIVAL, OURS = ("plain", "rival", "ours")
EAGER, COMPILED, ONNX_RUNTIME = "eager", "compiled", "ONNX Runtime"
# Answers must equal those of the model's own forward; in other precisions rounding may move a row across θ.
FLOAT32 = "float32"
PLAIN_MAINNET, RUNNER, PER_BATCH, OWN_FORWARD = "plain MainNet", "runner", "per batch", "own forward"
SIDENET_ALONE, WHOLE_BATCH = "SideNet 0 alone", "whole-batch router"


class Answerer(Protocol):
    """Takes batches of rows and returns answers in any order, like [`Engine`] and [`WholeEngine`]. It may have a
    `note` (`str`) for the table about its batch size."""

    def put(self, rows: Sequence[Row]) -> Sequence[Prediction]:
        """Take a batch and return all answers that are ready, including answers to earlier rows."""
        ...

    def flush(self) -> Sequence[Prediction]:
        """Return the answers to all rows still waiting."""
        ...


@dataclass(frozen=True, eq=False)
class Method:
    """One way to answer rows.

    Args:
        kind (`str`): kind of method, e.g. `"plain MainNet"` or `"runner"`.
        group (`str`): `"plain"`, `"rival"` or `"ours"`.
        precision (`str`): `"float32"`, `"bfloat16"`, `"int8"`, ...
        engine (`str`): `"eager"`, `"compiled"`, `"ONNX Runtime"`, ...
        bucketed (`bool`): whether rows are sorted by length within a window, or in mixed order.
        make (`Callable[[int, list[list[Row]]], Answerer]`):
            Makes an answerer for a batch size, given sample batches to prepare on. Called once per batch size, outside
            the timing; the answerer runs in inference mode and is reused after a `flush`.
        twin (`str`, *optional*): name of the method to beat; defaults to the plain one of the same precision, engine
            and order.
        thresholds (`tuple[float, ...]`, *optional*): θ of its rows.
        dtype (`torch.dtype`, *optional*): dtype of its floating-point inputs (images); defaults to the rows' own.
        stages (`Callable[[], StageChain]`, *optional*):
            Returns the chain of stages that it runs, whose times alone give its ideal. Methods that share a chain must
            have the same callable.
        expected (`Callable[[Sequence[Row]], tuple[torch.LongTensor, torch.LongTensor]]`, *optional*):
            Returns the expected class and exit of each row, each of shape `(num_rows,)`; exit -1 means any.
        recipe (`tuple[str, dict[str, Any]]`, *optional*):
            An importable function as `"package.module:function"` and its JSON arguments, which makes this method in
            another process to measure its memory.
        note (`str`, *optional*): note for the reader of the table.

    Raises:
        ValueError: `group` is not one of the three.
    """

    kind: str
    group: str
    precision: str
    engine: str
    bucketed: bool
    make: Callable[[int, list[list[Row]]], Answerer]
    twin: str | None = None
    thresholds: tuple[float, ...] = ()
    dtype: torch.dtype | None = None
    stages: Callable[[], StageChain] | None = None
    expected: Callable[[Sequence[Row]], tuple[torch.Tensor, torch.Tensor]] | None = None
    recipe: tuple[str, dict[str, Any]] | None = None
    note: str = ""

    def __post_init__(self):
        if self.group not in GROUPS:
            raise ArgumentError("group", f"must be one of {GROUPS}", self.group)

    @property
    def name(self) -> str:
        """Unique in a benchmark: `"runner, bfloat16, compiled, by length"`."""
        return ", ".join([self.kind, self.precision, self.engine, order_name(self.bucketed)])

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows with the θ and dtype of this method."""
        return [replace(row, inputs=_cast(row.inputs, self.dtype), thresholds=self.thresholds) for row in rows]


def order_name(bucketed: bool) -> str:
    """Return the name of an order in tables."""
    return "by length" if bucketed else "mixed"


def check_methods(methods: Sequence[Method]) -> None:
    """Check that methods can be compared.

    Raises:
        ValueError: there are no methods, two have the same name, or a `twin` is not another method.
    """
    if not methods:
        raise ArgumentError("methods", "must hold at least one method, got none")
    names = [method.name for method in methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError("methods", f"must have different names, got more than one {twice[0]!r}")
    for method in methods:
        if method.twin is not None and (method.twin not in names or method.twin == method.name):
            raise ArgumentError("twin", f"of {method.name!r} must be the name of another method", method.twin)


def twin_of(method: Method, methods: Sequence[Method]) -> Method | None:
    """Return the method that another has to beat: the one it names, else the plain one of the same precision, engine
    and order; `None` for a plain method.

    Args:
        method ([`Method`]): one of the methods.
        methods (`Sequence[Method]`): all compared methods.
    """
    if method.twin is not None:
        return next(other for other in methods if other.name == method.twin)
    if method.group == PLAIN:
        return None
    same = (method.precision, method.engine, method.bucketed)
    plain = (other for other in methods if other.group == PLAIN)
    return next((other for other in plain if (other.precision, other.engine, other.bucketed) == same), None)


def _cast(inputs: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    if dtype is None:
        return inputs
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
