# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_sidenet.export import OnnxStages, export_onnx
from hf_sidenet.export.onnx import ENTRIES
from hf_sidenet.export.onnx_export import MissingCalibrationRows
from hf_sidenet.export.onnx_graph import quantize_convolutions, quantize_linears
from hf_sidenet.inference import SideNetRunner
from hf_sidenet.models import SideNetForSequenceClassification, ViTWithSideNetForImageClassification

from ..models import tiny
from ..models.naive import every_exit, spread_out


pytestmark = pytest.mark.medium


onnx = pytest.importorskip("onnx", reason='needs pip install "hf_sidenet[onnx]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install "hf_sidenet[onnx]"')


def model_of(nodes, shapes, weights):
    """A model from `x` to `y`."""
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    arrays = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = [helper.make_node(kind, inputs, outputs, name=outputs[0], **more) for kind, inputs, outputs, more in nodes]
    graph = helper.make_graph(made, "graph", values[:1], values[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, x):
    """In a session as ours are, which are exact without VNNI too."""
    options = onnxruntime.SessionOptions()
    for name, value in ENTRIES.items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def kinds(model):
    return [node.op_type for node in model.graph.node]


# --- linear layers by hand


def linear(weight, **more):
    nodes = [("MatMul", ["x", "w"], ["y"], {})]
    shapes = {"x": ["rows", "tokens", weight.shape[0]], "y": ["rows", "tokens", weight.shape[1]]}
    return model_of(nodes, shapes, {"w": weight, **more})


def test_a_linear_layer_by_hand():
    weight = np.array([[1.0, 0.5], [0.25, -2.0]], np.float32)
    model = linear(weight)
    assert quantize_linears(model, num_outputs=3) == 1
    # Scales of the columns: 1/127 and 2/127. Weights: 127, 32 (0.25·127 = 31.75); 32 (31.75), -127.
    # First token: scale 2/127, values 127 and 64 (63.5 to even). Second: scale 100/127, values -127 and 1 (1.27).
    x = np.array([[[2.0, 1.0], [-100.0, 1.0]]], np.float32)
    by_hand = [
        [(127 * 127 + 64 * 32) * (2 / 127) * (1 / 127), (127 * 32 - 64 * 127) * (2 / 127) * (2 / 127)],
        [(-127 * 127 + 1 * 32) * (100 / 127) * (1 / 127), (-127 * 32 - 1 * 127) * (100 / 127) * (2 / 127)],
    ]
    np.testing.assert_allclose(run(model, x)[0], by_hand, rtol=1e-6)


def one_sided(kind):
    weight = np.array([[1.0], [-1.0]], np.float32)
    nodes = [(kind, ["x"], ["a"], {}), ("MatMul", ["a", "w"], ["y"], {})]
    model = model_of(nodes, {"x": ["rows", 2], "y": ["rows", 1]}, {"w": weight})
    assert quantize_linears(model, num_outputs=3) == 1
    return model


def test_outputs_of_an_activation_by_hand():
    # Nothing is negative: the scale is the largest value / 223. 1.0 becomes 56 (55.75), 4.0 becomes 223.
    x = np.array([[4.0, 1.0], [4.0, -3.0]], np.float32)
    by_hand = [[4 - 56 * 4 / 223], [4.0]]
    np.testing.assert_allclose(run(one_sided("Relu"), x), by_hand, rtol=1e-6)
    # GELU of -0.75 is -0.17, and with 32 levels below zero it determines the scale if nothing is above 1.18.
    low, high = (value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in (-0.75, 0.5))
    scale = -low / 32
    by_hand = [[round(high / scale) * scale + 32 * scale]]
    np.testing.assert_allclose(run(one_sided("Gelu"), np.array([[0.5, -0.75]], np.float32)), by_hand, rtol=1e-5)


def test_a_token_does_not_see_the_others():
    generator = np.random.default_rng(0)
    model = linear(generator.normal(size=(16, 8)).astype(np.float32))
    quantize_linears(model, num_outputs=3)
    x = generator.normal(size=(4, 5, 16)).astype(np.float32)
    together = run(model, x)
    assert together.shape == (4, 5, 8)
    huge = x.copy()
    huge[0, 0] *= 1e4
    np.testing.assert_array_equal(run(model, huge)[1:], together[1:])
    np.testing.assert_array_equal(run(model, x[2:3, 1:2]), together[2:3, 1:2])
    zero = run(model, np.zeros((1, 2, 16), np.float32))
    np.testing.assert_array_equal(zero, np.zeros((1, 2, 8)))


def test_layers_on_the_same_tokens_quantize_them_once():
    weights = {name: np.eye(4, dtype=np.float32) for name in "abc"}
    nodes = [("MatMul", ["x", name], [f"{name}y"], {}) for name in "abc"] + [("Sum", ["ay", "by", "cy"], ["y"], {})]
    model = model_of(nodes, {"x": ["rows", 4], "y": ["rows", 4]}, weights)
    assert quantize_linears(model, num_outputs=3) == 3
    assert kinds(model).count("QuantizeLinear") == 1
    assert kinds(model).count("MatMulIntegerToFloat") == 3
    assert kinds(model)[-1] == "Sum"
    np.testing.assert_allclose(run(model, np.ones((2, 4), np.float32)), np.full((2, 4), 3.0), rtol=1e-6)


def test_what_stays_as_it_is():
    weights = {
        "constant": np.ones((5, 4), np.float32),
        "projection": np.ones((4, 4), np.float32),
        "classifier": np.ones((4, 3), np.float32),
        "head": np.ones((4, 3), np.float32),
    }
    nodes = [
        # Depends on nothing.
        ("MatMul", ["constant", "projection"], ["positions"], {}),
        ("Transpose", ["positions"], ["turned"], {"perm": [1, 0]}),
        # Between tokens.
        ("MatMul", ["x", "turned"], ["scores"], {}),
        ("MatMul", ["scores", "positions"], ["mixed"], {}),
        ("MatMul", ["mixed", "classifier"], ["answers"], {}),
        ("Gemm", ["mixed", "head"], ["others"], {}),
        ("Add", ["answers", "others"], ["y"], {}),
    ]
    model = model_of(nodes, {"x": ["rows", 4], "y": ["rows", 3]}, weights)
    assert quantize_linears(model, num_outputs=3) == 0
    assert kinds(model) == [kind for kind, *_ in nodes]


@pytest.mark.parametrize(("num_rows", "stored"), [(1000, 1), (999, 0)])
def test_vocabularies(num_rows, stored):
    generator = np.random.default_rng(0)
    table = generator.normal(size=(num_rows, 8)).astype(np.float32) * generator.uniform(0.01, 10, (num_rows, 1))
    nodes = [("Cast", ["x"], ["ids"], {"to": 7}), ("Gather", ["table", "ids"], ["y"], {})]
    model = model_of(nodes, {"x": ["rows"], "y": ["rows", 8]}, {"table": table.astype(np.float32)})
    quantize_linears(model, num_outputs=3)
    assert sum(weight.data_type == onnx.TensorProto.INT8 for weight in model.graph.initializer) == stored
    found = run(model, np.array([0, 5, num_rows - 1], np.float32))
    expected = table[[0, 5, -1]]
    limit = np.abs(expected).max(1, keepdims=True) / 127 / 2 if stored else 1e-6
    assert (np.abs(found - expected) <= limit * 1.001).all()


# --- convolutions


def test_convolutions_pass_int8_on(tmp_path):
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=(4, 4, 3, 3)).astype(np.float32) for name in "ab"}
    same = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        ("Conv", ["x", "a"], ["first"], same),
        ("Relu", ["first"], ["positive"], {}),
        ("Conv", ["positive", "b"], ["second"], same),
        ("Add", ["second", "x"], ["sum"], {}),
        ("Sigmoid", ["sum"], ["y"], {}),
    ]
    plain = model_of(nodes, {"x": ["rows", 4, 8, 8], "y": ["rows", 4, 8, 8]}, weights)
    onnx.save(plain, tmp_path / "plain.onnx")
    images = [{"x": generator.normal(size=(4, 4, 8, 8)).astype(np.float32)} for _ in range(3)]
    quantize_convolutions(tmp_path / "plain.onnx", tmp_path / "int8.onnx", iter(images))
    model = onnx.load(tmp_path / "int8.onnx")
    made = {out: node.op_type for node in model.graph.node for out in node.output}
    reads = {node.op_type: [made.get(name) for name in node.input] for node in model.graph.node}
    assert reads["Conv"][:2] == reads["Add"] == ["DequantizeLinear"] * 2
    assert reads["Sigmoid"] == ["DequantizeLinear"]
    x = images[0]["x"]
    difference = np.abs(run(model, x) - run(plain, x))
    assert 0 < difference.max() < 0.2


# --- whole models


@pytest.fixture(scope="module")
def bert():
    model = tiny.bert_with_sidenets((2,))
    model.config.calibration = {"precision": "float32", "targets": []}
    return model


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 15, (48,), generator=generator).tolist()
    return [{"input_ids": torch.randint(3, 99, (length,), generator=generator).tolist()} for length in lengths]


@pytest.fixture(scope="module")
def exported(bert, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "folder"
    return path, export_onnx(bert, path, int8=True, calibration_rows=texts, progress=False)


def answers(model, rows, **kwargs):
    runner = SideNetRunner(model, routing="all_blocks", **kwargs)
    return torch.stack([each.logits for each in runner.predict(rows, thresholds=1.0)])


def test_texts_are_near_and_do_not_depend_on_their_batch(bert, texts, exported):
    stages = OnnxStages.load(exported[0])
    assert stages.precision == "int8 (ONNX Runtime)"
    assert stages.dtype == torch.float32
    plain = answers(bert, texts)
    together, alone = answers(stages, texts, batch_size=48), answers(stages, texts, batch_size=1)
    scale = float(plain.abs().max())
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * scale)
    difference = float((together - plain).abs().max()) / scale
    assert 1e-5 < difference < 0.02


def test_theta_has_no_evidence_in_int8(bert, exported):
    config = json.loads((exported[0] / "config.json").read_text())
    assert config["calibration"] is None
    assert config["thresholds"] == bert.config.thresholds
    assert bert.config.calibration is not None


def test_what_changed(bert, texts, exported, tmp_path, monkeypatch):
    done = exported[1]
    assert done.largest_difference < 1e-5
    assert len(done.changed) == 2
    assert all(0 <= share < 0.1 for share in done.changed)
    # Two linear layers in each block are as wide as the block's inside, 37.
    model = onnx.load(exported[0] / "stage_0_model_quantized.onnx")
    assert kinds(model).count("MatMulIntegerToFloat") == 12
    # The SideNet.
    assert kinds(model).count("Gemm") == 2
    monkeypatch.setattr("hf_sidenet.export.onnx_export._write_int8", lambda s, f, named, plain, folder, *_: [
        (folder / new.file).write_bytes((plain / old.file).read_bytes()) for old, new in zip(f, named, strict=True)
    ])  # fmt: skip
    same = export_onnx(bert, tmp_path / "out", int8=True, calibration_rows=texts, progress=False)
    assert same.changed == [0.0, 0.0]


def test_convolutions_need_rows(tmp_path):
    model = tiny.resnet_with_sidenet((2,))
    message = "`calibration_rows` must be given for int8 of the 12 convolutions, got none"
    with pytest.raises(MissingCalibrationRows, match=message):
        export_onnx(model, tmp_path / "out", int8=True, progress=False)
    for rows, message in (
        ([], "`calibration_rows` must have rows, got none"),
        ([{"input_ids": [1]}], "`calibration_rows` must be .* row 0: inputs must be among"),
        ([{"pixel_values": torch.zeros(3, 64, 64)}], r"must be images of \[3, 32, 32\], got \[3, 64, 64\]"),
    ):
        with pytest.raises(ValueError, match=message):
            export_onnx(model, tmp_path / "out", int8=True, calibration_rows=rows, progress=False)
    assert not list(tmp_path.iterdir())


def test_images(tmp_path):
    # A tuple, which images are compared with too.
    model = tiny.resnet_with_sidenet((2,), input_size=(3, 32, 32))
    assert model.config.input_size == [3, 32, 32]
    images = tiny.images(40)["pixel_values"]
    rows = [{"pixel_values": image} for image in images]
    export_onnx(model, tmp_path / "out", int8=True, calibration_rows=rows, progress=False)
    stages = OnnxStages.load(tmp_path / "out")
    full = every_exit(model, {"pixel_values": images})
    hidden, first = stages(0, None, {"pixel_values": images})
    _, last = stages(1, hidden, {})
    for found, expected in ((first, full[:, 0]), (last, full[:, 1])):
        assert (found - expected).abs().max() < 0.1 * expected.abs().max()
        assert not torch.equal(found, expected)
    torch.testing.assert_close(stages(0, None, {"pixel_values": images[:1]})[1], first[:1], rtol=0, atol=1e-5)


def test_images_with_linear_layers_need_no_rows(tmp_path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    mainnet = ViTForImageClassification(config).eval()
    model = ViTWithSideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1])
    spread_out(model, tiny.images(16))
    done = export_onnx(model, tmp_path / "out", int8=True, progress=False)
    assert done.changed is None
    images = tiny.images(3)
    full = every_exit(model, images)
    _, first = OnnxStages.load(tmp_path / "out")(0, None, images)
    assert 0 < (first - full[:, 0]).abs().max() < 0.05 * full.abs().max()


def test_nothing_to_turn_to_int8(tmp_path):
    config = GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=2, n_positions=64, pad_token_id=0, num_labels=3, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    mainnet = GPT2ForSequenceClassification(config).eval()
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    with pytest.raises(ValueError, match="`int8` must find linear layers on tokens or convolutions in the MainNet"):
        export_onnx(model, tmp_path / "out", int8=True, progress=False)
