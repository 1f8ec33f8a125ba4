# SPDX-License-Identifier: Apache-2.0
"""Other SideNets in an ONNX file: only the SideNet changes."""

import numpy as np
import pytest
import torch

from hf_sidenet.export.programs import ExportError
from hf_sidenet.models.sidenet import SideNet


onnx = pytest.importorskip("onnx", reason='needs pip install "hf_sidenet[onnx]"')
pytest.importorskip("onnxruntime")

from hf_sidenet.export.onnx import open_session  # noqa: E402  (needs onnxruntime)
from hf_sidenet.export.onnx_graph import replace_head  # noqa: E402
from hf_sidenet.export.onnx_sidenets import folded  # noqa: E402


WIDTH, HIDDEN, LABELS = 3, 4, 2


def trained_sidenet(seed=0):
    """A SideNet whose BatchNorm does something."""
    torch.manual_seed(seed)
    sidenet = SideNet(WIDTH, HIDDEN, LABELS)
    with torch.no_grad():
        for each in (sidenet.norm.weight, sidenet.norm.bias, sidenet.norm.running_mean, sidenet.dense.bias):
            each.normal_()
        sidenet.norm.running_var.uniform_(0.5, 2)
    return sidenet.eval()


@pytest.fixture
def stage():
    """x_c = 2 · hidden + b, then a SideNet that shares b: the exporter merges equal constants."""
    shared = np.arange(HIDDEN, dtype=np.float32)
    constants = {
        "two": np.full((1,), 2, np.float32),
        "b": shared,
        "w": np.ones((HIDDEN, HIDDEN), np.float32),
        "v": np.ones((LABELS, HIDDEN), np.float32),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Mul", ["hidden", "two"], ["twice"]),
        make("Add", ["twice", "b"], ["x_c"]),
        make("Gemm", ["x_c", "w", "b"], ["inner"], transB=1),
        make("Relu", ["inner"], ["positive"]),
        make("Gemm", ["positive", "v"], ["logits"], transB=1),
    ]
    kind = onnx.TensorProto.FLOAT
    values = [
        onnx.helper.make_tensor_value_info(name, kind, ["rows", width])
        for name, width in (("hidden", HIDDEN), ("x_c", HIDDEN), ("logits", LABELS))
    ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "stage", values[:1], values[1:], initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def answers(model, folder, hidden):
    onnx.checker.check_model(model)
    onnx.save(model, folder / "stage.onnx")
    return open_session(folder / "stage.onnx").run(None, {"hidden": hidden})


def test_a_batchnorm_is_folded_into_the_first_layer():
    sidenet, features = trained_sidenet(), torch.randn(5, WIDTH)
    (one, two), (three, four) = folded(sidenet)
    found = torch.relu(features @ one.T + two) @ three.T + four
    with torch.no_grad():
        expected = sidenet(features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_only_the_sidenet_changes(stage, tmp_path):
    hidden = np.random.default_rng(0).normal(size=(6, HIDDEN)).astype(np.float32)
    state, _ = answers(stage, tmp_path, hidden)
    weight, bias = np.eye(HIDDEN, dtype=np.float32), np.zeros(HIDDEN, np.float32)
    # Twice: a SideNet can be retrained again.
    for sign in (-1, 1):
        last = sign * np.ones((LABELS, HIDDEN), np.float32), np.full(LABELS, 0.5, np.float32)
        replace_head(stage, [(weight, bias), last])
        found, logits = answers(stage, tmp_path, hidden)
        assert np.array_equal(found, state)
        expected = sign * np.maximum(state, 0).sum(1, keepdims=True) + 0.5
        np.testing.assert_allclose(logits, np.repeat(expected, LABELS, 1), rtol=1e-5)
    assert len(stage.graph.node) == 5
    names = [constant.name for constant in stage.graph.initializer]
    assert sorted(names) == sorted(set(names))


def test_a_stage_that_ends_otherwise_is_refused(stage):
    layers = [(np.ones((HIDDEN, HIDDEN)), np.ones(HIDDEN)), (np.ones((LABELS, HIDDEN)), np.ones(LABELS))]
    stage.graph.node[3].op_type = "Tanh"
    with pytest.raises(ExportError, match="must end with a SideNet, Gemm ← Relu ← Gemm, but 'positive' is from Tanh"):
        replace_head(stage, layers)
    stage.graph.node[3].op_type = "Relu"
    wide = [(np.ones((HIDDEN + 1, HIDDEN)), np.ones(HIDDEN + 1)), layers[1]]
    with pytest.raises(ExportError, match=r"must end with a SideNet of shape \(5, 4\), got \(4, 4\)"):
        replace_head(stage, wide)
