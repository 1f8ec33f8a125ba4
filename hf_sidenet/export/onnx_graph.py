# SPDX-License-Identifier: Apache-2.0
"""Programs of `torch.export` become ONNX models. The only file that imports `onnx`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
