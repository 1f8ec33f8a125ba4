# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in the benchmark: exported stages, and the MainNet alone exported in the same way."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import BertConfig

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.catalog import Catalog, method_named
from hf_sidenet.benchmark.methods import EAGER, ONNX_RUNTIME, OURS, PLAIN, twin_of
from hf_sidenet.benchmark.plain import PlainChain, PlainConfig, PlainOnnx, export_plain, plain_mainnet
from hf_sidenet.benchmark.variants import Settings, exported_by_precision
from hf_sidenet.export.onnx import ENTRIES, open_session

from ..export.test_onnx_int8 import model_of
from .test_catalog import answers_of, image_rows, own_answers, text_rows


onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(text_checkpoint, tmp_path_factory):
    """A catalog with everything in float32 and int8."""
    catalog = Catalog(Settings(text_checkpoint, precisions=("float32", "int8"), engines=(EAGER, ONNX_RUNTIME)))
    return catalog.with_onnx(tmp_path_factory.mktemp("onnx"), text_rows())


def test_what_was_not_exported_is_not_compared(text_checkpoint):
    catalog = Catalog(Settings(text_checkpoint, engines=(EAGER, ONNX_RUNTIME)))
    with pytest.raises(ValueError, match="nothing was exported for it: call `with_onnx` first"):
        catalog.methods()
    # ONNX Runtime has no bfloat16, and nothing is exported unless requested.
    for settings in (
        Settings(text_checkpoint, precisions=("bfloat16",), engines=(EAGER, ONNX_RUNTIME)),
        Settings(text_checkpoint),
    ):
        assert {each.engine for each in Catalog(settings).with_onnx("nowhere", []).methods()} == {EAGER}


def test_the_plain_one_has_the_options_of_the_stages(tmp_path):
    weights = {"w": np.ones((2, 2), np.float32)}
    model = model_of([("MatMul", ["x", "w"], ["y"], {})], {"x": [1, 2], "y": [1, 2]}, weights)
    onnx.save(model, tmp_path / "plain.onnx")
    options = PlainOnnx(
        tmp_path / "plain.onnx", PlainConfig(BertConfig()), torch.float32
    ).session.get_session_options()
    same = open_session(tmp_path / "plain.onnx").get_session_options()
    assert options.log_severity_level == same.log_severity_level == 4
    assert options.intra_op_num_threads == same.intra_op_num_threads == torch.get_num_threads()
    for name, value in ENTRIES.items():
        assert options.get_session_config_entry(name) == same.get_session_config_entry(name) == value
    assert open_session(tmp_path / "plain.onnx", num_threads=3).get_session_options().intra_op_num_threads == 3


@pytest.mark.slow
def test_int8_of_convolutions_needs_training_rows(image_checkpoint, tmp_path):
    catalog = Catalog(Settings(image_checkpoint, precisions=("int8",), engines=(ONNX_RUNTIME,)))
    with pytest.raises(
        ValueError, match="`also` must name a folder of `hf-sidenet export --int8` for a MainNet of convolutions"
    ):
        catalog.with_onnx(tmp_path, image_rows())


@pytest.mark.slow
def test_answers_in_onnx_runtime(exported, text_checkpoint):
    rows = text_rows()
    model, _ = load_checkpoint(text_checkpoint)
    plain, _ = own_answers(model, rows, 1.0)
    routed = own_answers(model, rows, model.config.thresholds)
    methods = exported.methods()
    assert {(each.precision, each.engine) for each in methods} == {
        ("float32", EAGER),
        ("float32", ONNX_RUNTIME),
        ("int8", ONNX_RUNTIME),
    }
    for method in methods:
        if method.engine != ONNX_RUNTIME:
            continue
        labels, exits = answers_of(method, rows)
        assert method.group in (PLAIN, OURS)
        assert method.group == PLAIN or (twin_of(method, methods).precision, twin_of(method, methods).engine) == (
            method.precision,
            ONNX_RUNTIME,
        )
        expected = (plain, [0] * len(rows)) if method.group == PLAIN else routed
        if method.precision == "float32":
            assert (labels, exits) == expected, method.name
        else:
            # Rounded, but the same model.
            assert sum(a != b for a, b in zip(labels, expected[0], strict=True)) <= 3
            assert sum(a != b for a, b in zip(exits, expected[1], strict=True)) <= 3


@pytest.mark.slow
def test_another_process_needs_the_exported_files_only(exported):
    method = next(each for each in exported.methods() if (each.engine, each.group) == (ONNX_RUNTIME, PLAIN))
    _, arguments = method.recipe
    again = method_named(**json.loads(json.dumps(arguments)))
    assert answers_of(again, text_rows()) == answers_of(method, text_rows())


@pytest.mark.slow
def test_an_exported_folder_takes_the_place_and_has_its_own_theta(exported, text_checkpoint, tmp_path):
    folder, _ = exported.settings.onnx["int8"]
    shutil.copytree(folder, tmp_path / "int8")
    path = tmp_path / "int8" / "config.json"
    config = json.loads(path.read_text())
    config["thresholds"] = [0.0, 1.0]
    config["calibration"] = {"precision": "int8 (ONNX Runtime)"}
    path.write_text(json.dumps(config))
    also = (str(tmp_path / "int8"),)
    assert exported_by_precision(also) == {"int8": also[0]}
    with pytest.raises(ValueError, match="`also` must name one exported folder per precision, got two in int8"):
        exported_by_precision(also * 2)
    catalog = Catalog(Settings(text_checkpoint, also=also)).with_onnx(tmp_path / "scratch", [])
    methods = [each for each in catalog.methods() if each.engine == ONNX_RUNTIME]
    assert {each.precision for each in methods} == {"int8"}
    mine = [each for each in methods if each.group == OURS]
    assert {each.note for each in mine} == {""}
    assert set(answers_of(mine[0], text_rows())[1]) == {0}
    by_hand = Catalog(Settings(text_checkpoint, also=also, thresholds=(1.0, 1.0))).with_onnx(tmp_path / "more", [])
    mine = next(each for each in by_hand.methods() if (each.engine, each.group) == (ONNX_RUNTIME, OURS))
    assert set(answers_of(mine, text_rows())[1]) == {2}


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
@torch.no_grad()
def test_a_plain_classifier_of_pictures(image_checkpoint, tmp_path, int8):
    model, _ = load_checkpoint(image_checkpoint)
    chain = PlainChain(plain_mainnet(model), model.config.input_size)
    export_plain(chain, tmp_path / "plain.onnx", int8=int8, rows=image_rows())
    pixels = torch.stack([row.inputs["pixel_values"] for row in image_rows()])
    expected = model(pixel_values=pixels, thresholds=1.0).logits
    _, logits = PlainOnnx(tmp_path / "plain.onnx", chain.config, torch.float32)(0, None, {"pixel_values": pixels})
    tolerance = 0.1 if int8 else 1e-5
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()
    assert ((logits - expected).abs().max() > 1e-4 * expected.abs().max()) == int8


@pytest.mark.slow
@torch.no_grad()
def test_what_rows_do_not_have_is_filled_in(exported):
    _, file = exported.settings.onnx["float32"]
    chain = exported.variants[0].plain()
    ids = torch.tensor([[101, 2000, 102]])
    _, logits = PlainOnnx(file, chain.config, torch.float32)(0, None, {"input_ids": ids})
    torch.testing.assert_close(logits, chain(0, None, {"input_ids": ids})[1], rtol=1e-4, atol=1e-5)
