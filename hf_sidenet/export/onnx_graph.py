# SPDX-License-Identifier: Apache-2.0
"""Convert `torch.export` programs to ONNX, and linear layers and convolutions to int8. The only importer of `onnx`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ..optional import require
from .programs import ExportError


EXTRA = "onnx"
# From this version on, layers of transformers are single operations (LayerNorm from 17, GELU from 20).
OPSET = 20
# Minimum of the exporter, also needed by the int8 reductions.
MIN_OPSET = 18
# A protocol buffer is limited to 2 GiB; larger weights go to a separate file.
MAX_BYTES = 2**31 - 2**20

# Tables with this many rows or more are vocabularies, whose rows are stored in int8 too.
MIN_TABLE = 1000
# Values are integers in ±127 times a scale; tokens are stored with an offset of 128.
LEVELS, ZERO = 127, 128
# Outputs of these activations are hardly ever negative: an offset of 32 leaves 223 levels above zero instead of 127.
ONE_SIDED, LOW_ZERO = ("Gelu", "Relu"), 32
TOP = 255
# Operations that keep int8 between convolutions.
BETWEEN_CONVOLUTIONS = ("Conv", "Relu", "Add", "MaxPool")
# Output of every stage, and the nodes of a SideNet, from there backward.
LOGITS = "logits"
HEAD = ("Gemm", "Relu", "Gemm")
# Names of the linear layers of a new SideNet.
HEAD_LAYERS = ("retrained.dense", "retrained.out_proj")


def library() -> Any:
    """Import the package `onnx`."""
    require("onnxscript", EXTRA)
    return require("onnx", EXTRA)


def to_onnx(
    program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], axes: Sequence[str], opset: int | None
) -> Any:
    """Convert a stage to an ONNX model.

    Args:
        program (`ExportedProgram`): program from [`export_stage`].
        inputs (`Sequence[str]`): names of the inputs, in order.
        outputs (`Sequence[str]`): names of the outputs, in order.
        axes (`Sequence[str]`): names of the leading axes of variable size.
        opset (`int`, *optional*): version of the operations, by default 20.

    Returns:
        `onnx.ModelProto`

    Raises:
        ExportError: an operation has no counterpart in ONNX.
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
    assert exported is not None  # Always the case with dynamo.
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
    """Load an ONNX model with its weights."""
    return library().load(path)


def save(model: Any, path: Path) -> None:
    """Write an ONNX model; weights of more than 2 GiB go to a separate file, with `.data` appended to the name."""
    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    if size < MAX_BYTES:
        library().save(model, path)
    else:
        library().save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def weights_of(model: Any) -> dict[str, Any]:
    """Return the constants of a model (`onnx.TensorProto`), by name."""
    return {weight.name: weight for weight in model.graph.initializer}


def replace_nodes(model: Any, nodes: Iterable[Any]) -> None:
    """Replace the nodes of a model, and remove constants that none of them reads."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)


def replace_head(model: Any, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Replace the SideNet at the end of a stage, in place.

    Args:
        model (`onnx.ModelProto`): model of a stage that ends at a SideNet after a block.
        layers (`Sequence[tuple[np.ndarray, np.ndarray]]`): weight, of shape `(out, in)`, and bias of its two linear
            layers.

    Raises:
        ExportError: the stage does not end with two linear layers of these shapes.
    """
    onnx = library()
    last, _, first = old = _head(model)
    weights = weights_of(model)
    kind = onnx.numpy_helper.to_array(weights[first.input[1]]).dtype
    for node, (weight, _) in zip((first, last), layers, strict=True):
        found = tuple(weights[node.input[1]].dims)
        if sorted(found) != sorted(weight.shape):
            raise ExportError(f"a stage must end with a SideNet of shape {weight.shape}, got {found}.")
    features = first.input[0]
    gone = {node.output[0] for node in old}
    # Constants may be shared with other layers, so the old ones are not changed.
    replace_nodes(model, [node for node in model.graph.node if node.output[0] not in gone])
    for name, (weight, bias) in zip(HEAD_LAYERS, layers, strict=True):
        for part, value in (("weight", weight), ("bias", bias)):
            constant = onnx.numpy_helper.from_array(np.ascontiguousarray(value.astype(kind)), f"{name}.{part}")
            model.graph.initializer.append(constant)
    one, two = ([f"{name}.weight", f"{name}.bias"] for name in HEAD_LAYERS)
    hidden, positive = (f"{HEAD_LAYERS[0]}.{name}" for name in ("hidden", "positive"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gemm", [features, *one], [hidden], transB=1),
            onnx.helper.make_node("Relu", [hidden], [positive]),
            onnx.helper.make_node("Gemm", [positive, *two], [LOGITS], transB=1),
        ]
    )


def _head(model: Any) -> list[Any]:
    """Return the nodes of the SideNet at the end of a stage, last first; the exporter merges its BatchNorm."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants, found, output = weights_of(model), [], LOGITS
    for kind in HEAD:
        node = makers.get(output)
        if node is None or node.op_type != kind or (kind == "Gemm" and node.input[1] not in constants):
            made = "an input" if node is None else node.op_type
            raise ExportError(f"a stage must end with a SideNet, {' ← '.join(HEAD)}, but {output!r} is from {made}.")
        found.append(node)
        output = node.input[0]
    return found


def _strip(model: Any) -> None:
    """Remove the exporter's metadata: file names of this machine, and shapes that later changes would invalidate."""
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
    """Convert the linear layers and the vocabulary of a model to int8, in place.

    Args:
        model (`onnx.ModelProto`): model from [`to_onnx`].
        num_outputs (`int`): width of the classifier, which is not converted.

    Returns:
        `int`: number of converted linear layers.
    """
    return _Linears(model, num_outputs).quantize()


def num_convolutions(model: Any) -> int:
    """Count the convolutions of a model.

    Args:
        model (`onnx.ModelProto`): model from [`to_onnx`].
    """
    return sum(node.op_type == "Conv" for node in model.graph.node)


def quantize_convolutions(source: Path, target: Path, feeds: Iterable[dict[str, np.ndarray]]) -> None:
    """Convert the convolutions of a model to int8.

    Args:
        source (`Path`): file of the model.
        target (`Path`): file to write.
        feeds (`Iterable[dict[str, np.ndarray]]`): batches of its inputs, to determine the ranges.
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
    """Return whether a node multiplies by a constant matrix. With one vector per row, the exporter uses `Gemm`."""
    return node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2


class _Linears:
    """Rewrites a model's nodes."""

    def __init__(self, model: Any, num_outputs: int):
        self.onnx = library()
        self.model = model
        self.num_outputs = num_outputs
        self.weights = weights_of(model)
        self.nodes: list[Any] = []
        # Shared by layers that read the same tokens.
        self.tokens: dict[str, tuple[str, str, str]] = {}
        self.one_sided = {node.output[0] for node in model.graph.node if node.op_type in ONE_SIDED}

    def quantize(self) -> int:
        self.one = self._constant("int8.one", np.float32(1))
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
            # Nodes that depend on no input are computed once, at load time (DeBERTa's relative positions).
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
        product = [whole, values, self.one, scale, self._constant(*self._zero(tokens))]
        self._add("MatMulIntegerToFloat", product, f"{out}.whole", domain="com.microsoft")
        self._add("Mul", [f"{out}.whole", largest], f"{out}.flat")
        width = self._constant(f"{out}.width", np.array([matrix.shape[1]], np.int64))
        self._add("Concat", [batch, width], f"{out}.shape", axis=0)
        self._add("Reshape", [f"{out}.flat", f"{out}.shape"], out)

    def _zero(self, tokens: str) -> tuple[str, np.uint8]:
        """Return name and value of the integer that stands for zero."""
        return ("int8.low", np.uint8(LOW_ZERO)) if tokens in self.one_sided else ("int8.zero", np.uint8(ZERO))

    def _quantized(self, tokens: str, width: int) -> tuple[str, str, str]:
        """Quantize per token; return integers with one token per row, their scales, and the batch's former shape."""
        name = f"{tokens}.by_token"
        lines = self._constant(f"{name}.lines", np.array([-1, width], np.int64))
        self._add("Reshape", [tokens, lines], f"{name}.flat")
        self._add("ReduceMax", [f"{name}.flat", self.width], f"{name}.highest", keepdims=0)
        self._add("ReduceMin", [f"{name}.flat", self.width], f"{name}.lowest", keepdims=0)
        _, offset = self._zero(tokens)
        above, below = (TOP - LOW_ZERO, LOW_ZERO) if tokens in self.one_sided else (LEVELS, LEVELS)
        up = self._constant(f"int8.{above}", np.float32(above))
        down = self._constant(f"int8.minus_{below}", np.float32(-below))
        self._add("Div", [f"{name}.highest", up], f"{name}.up")
        self._add("Div", [f"{name}.lowest", down], f"{name}.down")
        self._add("Max", [f"{name}.up", f"{name}.down", self.tiny], f"{name}.scale")
        self._add("Shape", [f"{name}.scale"], f"{name}.count")
        zero = self.onnx.numpy_helper.from_array(np.array([offset], np.uint8))
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
        """Store a matrix as integers, with one scale per slice along an axis."""
        scale = np.maximum(np.abs(matrix).max(axis, keepdims=True), 1e-12) / LEVELS
        whole = np.round(matrix / scale).astype(np.int8)
        # A product takes a vector of scales, a table one scale per row.
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
