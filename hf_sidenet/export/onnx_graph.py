# SPDX-License-Identifier: Apache-2.0
"""Programs of `torch.export` become ONNX models, whose linear layers and convolutions become int8. The only file that
imports `onnx`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ..optional import require
from .programs import ExportError


EXTRA = "onnx"
# The layers of transformers are single operations from here on (LayerNorm from 17, GELU from 20).
OPSET = 20
# Of the exporter. The reductions of int8 need it too.
MIN_OPSET = 18
# A protocol buffer ends at 2 GiB; its weights lie in a file beside it then.
MAX_BYTES = 2**31 - 2**20

# Tables of as many rows are vocabularies, whose rows are stored in int8 too.
MIN_TABLE = 1000
# Values are whole numbers in ±127 times a scale; those of tokens are stored with 128 added.
LEVELS, ZERO = 127, 128
# What passes int8 on from one convolution to the next.
BETWEEN_CONVOLUTIONS = ("Conv", "Relu", "Add", "MaxPool")


def library() -> Any:
    """The package `onnx`."""
    require("onnxscript", EXTRA)
    return require("onnx", EXTRA)


def to_onnx(
    program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], axes: Sequence[str], opset: int | None
) -> Any:
    """The ONNX model of a stage.

    Args:
        program (`ExportedProgram`): of [`export_stage`].
        inputs (`Sequence[str]`): names of what goes in, in order.
        outputs (`Sequence[str]`): names of what comes out.
        axes (`Sequence[str]`): names of the free axes, the first ones.
        opset (`int`, *optional*): version of the operations, by default 20.

    Returns:
        `onnx.ModelProto`

    Raises:
        ExportError: an operation has no counterpart.
    """
    library()
    try:
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET if opset is None else opset,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ExportError(f"torch.onnx.export fails on a stage with the inputs {list(inputs)}: {line}") from error
    assert exported is not None  # As of every export by dynamo.
    model = exported.model_proto
    _strip(model)
    names = list(axes)
    for value in (*model.graph.input, *model.graph.output):
        # Logits have one vector per row.
        for axis, name in zip(
            value.type.tensor_type.shape.dim, names[: 1 if value.name == "logits" else 2], strict=False
        ):
            axis.dim_param = name
    return model


def load(path: Path) -> Any:
    """An ONNX model from a file, with its weights."""
    return library().load(path)


def save(model: Any, path: Path) -> None:
    """Write an ONNX model; weights of more than 2 GiB go to a file with `.data` after its name."""
    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    if size < MAX_BYTES:
        library().save(model, path)
    else:
        library().save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def weights_of(model: Any) -> dict[str, Any]:
    """The constants of a model (`onnx.TensorProto`) by name."""
    return {weight.name: weight for weight in model.graph.initializer}


def replace_nodes(model: Any, nodes: Iterable[Any]) -> None:
    """Give a model other nodes, and take away the constants that none of them reads."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)


def _strip(model: Any) -> None:
    """Take away what the exporter notes: file names of this machine, and shapes that later changes make wrong."""
    del model.graph.value_info[:]
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


def quantize_linears(model: Any, num_outputs: int) -> int:
    """Turn the linear layers of a model, and its vocabulary, to int8, in place.

    Args:
        model (`onnx.ModelProto`): of [`to_onnx`].
        num_outputs (`int`): a layer of this width is the classifier, which stays.

    Returns:
        `int`: how many linear layers.
    """
    return _Linears(model, num_outputs).quantize()


def num_convolutions(model: Any) -> int:
    """How many convolutions a model has.

    Args:
        model (`onnx.ModelProto`): of [`to_onnx`].
    """
    return sum(node.op_type == "Conv" for node in model.graph.node)


def quantize_convolutions(source: Path, target: Path, feeds: Iterable[dict[str, np.ndarray]]) -> None:
    """Turn the convolutions of a model to int8.

    Args:
        source (`Path`): the model.
        target (`Path`): where it goes.
        feeds (`Iterable[dict[str, np.ndarray]]`): batches of its inputs, which show the ranges.
    """
    quantization = require("onnxruntime.quantization", EXTRA)

    class Feeds(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    quantization.quantize_static(
        source,
        target,
        Feeds(),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=list(BETWEEN_CONVOLUTIONS),
    )


def _is_linear(node: Any, weights: dict[str, Any]) -> bool:
    """A product with a constant matrix. Of vectors, one per row, the exporter makes `Gemm`."""
    return node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2


class _Linears:
    """Writes a model's nodes anew."""

    def __init__(self, model: Any, num_outputs: int):
        self.onnx = library()
        self.model = model
        self.num_outputs = num_outputs
        self.weights = weights_of(model)
        self.nodes: list[Any] = []
        # Several layers may read the same tokens.
        self.tokens: dict[str, tuple[str, str, str]] = {}

    def quantize(self) -> int:
        self.one = self._constant("int8.one", np.float32(1))
        self.zero = self._constant("int8.zero", np.uint8(ZERO))
        self.levels = self._constant("int8.levels", np.float32(LEVELS))
        self.tiny = self._constant("int8.tiny", np.float32(1e-12))
        self.first, self.last, self.width = (
            self._constant(f"int8.{name}", np.array([axis], np.int64))
            for name, axis in (("first", 0), ("last", -1), ("width", 1))
        )
        count = 0
        moving = {value.name for value in self.model.graph.input}
        for node in list(self.model.graph.node):
            moves = not moving.isdisjoint(node.input)
            moving.update(node.output if moves else ())
            # What depends on nothing is computed once, when the model is loaded (DeBERTa's relative positions).
            if moves and _is_linear(node, self.weights) and self.weights[node.input[1]].dims[1] != self.num_outputs:
                self._linear(node)
                count += 1
            elif moves and self._is_table(node):
                self._table(node)
            else:
                self.nodes.append(node)
        replace_nodes(self.model, self.nodes)
        if all(each.domain != "com.microsoft" for each in self.model.opset_import):
            self.model.opset_import.append(self.onnx.helper.make_opsetid("com.microsoft", 1))
        return count

    def _linear(self, node: Any) -> None:
        tokens, name, out = node.input[0], node.input[1], node.output[0]
        matrix = self.onnx.numpy_helper.to_array(self.weights[name])
        values, scale = self._stored(name, matrix, axis=0)
        if tokens not in self.tokens:
            self.tokens[tokens] = self._quantized(tokens, matrix.shape[0])
        whole, largest, batch = self.tokens[tokens]
        product = [whole, values, self.one, scale, self.zero]
        self._add("MatMulIntegerToFloat", product, f"{out}.whole", domain="com.microsoft")
        self._add("Mul", [f"{out}.whole", largest], f"{out}.flat")
        width = self._constant(f"{out}.width", np.array([matrix.shape[1]], np.int64))
        self._add("Concat", [batch, width], f"{out}.shape", axis=0)
        self._add("Reshape", [f"{out}.flat", f"{out}.shape"], out)

    def _quantized(self, tokens: str, width: int) -> tuple[str, str, str]:
        """One token per line: whole numbers, the scale of each, and the shape that the batch had before."""
        name = f"{tokens}.by_token"
        lines = self._constant(f"{name}.lines", np.array([-1, width], np.int64))
        self._add("Reshape", [tokens, lines], f"{name}.flat")
        self._add("ReduceMax", [f"{name}.flat", self.width], f"{name}.highest", keepdims=0)
        self._add("ReduceMin", [f"{name}.flat", self.width], f"{name}.lowest", keepdims=0)
        self._add("Neg", [f"{name}.lowest"], f"{name}.depth")
        self._add("Max", [f"{name}.highest", f"{name}.depth", self.tiny], f"{name}.largest")
        self._add("Div", [f"{name}.largest", self.levels], f"{name}.scale")
        self._add("Shape", [f"{name}.scale"], f"{name}.count")
        zero = self.onnx.numpy_helper.from_array(np.array([ZERO], np.uint8))
        self._add("ConstantOfShape", [f"{name}.count"], f"{name}.zeros", value=zero)
        self._add("QuantizeLinear", [f"{name}.flat", f"{name}.scale", f"{name}.zeros"], name, axis=0)
        self._add("Unsqueeze", [f"{name}.scale", self.width], f"{name}.column")
        self._add("Shape", [tokens], f"{name}.shape")
        self._add("Slice", [f"{name}.shape", self.first, self.last], f"{name}.batch")
        return name, f"{name}.column", f"{name}.batch"

    def _is_table(self, node: Any) -> bool:
        weight = self.weights.get(node.input[0]) if node.op_type == "Gather" else None
        return weight is not None and len(weight.dims) == 2 and weight.dims[0] >= MIN_TABLE

    def _table(self, node: Any) -> None:
        name, out = node.input[0], node.output[0]
        values, scale = self._stored(name, self.onnx.numpy_helper.to_array(self.weights[name]), axis=1)
        self._add("Gather", [values, node.input[1]], f"{out}.whole")
        self._add("Gather", [scale, node.input[1]], f"{out}.scale")
        self._add("Cast", [f"{out}.whole"], f"{out}.float", to=self.onnx.TensorProto.FLOAT)
        self._add("Mul", [f"{out}.float", f"{out}.scale"], out)

    def _stored(self, name: str, matrix: np.ndarray, axis: int) -> tuple[str, str]:
        """A matrix as whole numbers, with one scale for all that lies along an axis."""
        scale = np.maximum(np.abs(matrix).max(axis, keepdims=True), 1e-12) / LEVELS
        whole = np.round(matrix / scale).astype(np.int8)
        # A product takes its scales in one line, a table has one behind each row.
        scale = scale.astype(np.float32).reshape(-1) if axis == 0 else scale.astype(np.float32)
        return self._constant(f"{name}.int8", whole), self._constant(f"{name}.scale", scale)

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.weights:
            weight = self.onnx.numpy_helper.from_array(np.asarray(value), name)
            self.model.graph.initializer.append(weight)
            self.weights[name] = weight
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))
