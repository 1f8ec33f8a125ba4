# SPDX-License-Identifier: Apache-2.0
"""What does little harm, and should do none."""

import json

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.cli.errors import printable
from hf_sidenet.export.exported import MANIFEST, Manifest
from hf_sidenet.models.configuration_sidenet import SideNetConfig

from ..cli.test_cli import run
from ..hub.folder import save_folder
from ..models import tiny


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "checkpoint")


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_truncated_weights_are_the_folders_fault(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be built from its config.json and weights: SafetensorError"):
        load_checkpoint(folder)
    done = run("info", folder)
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("Error: DIRECTORY: ")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["mainnet_config"].update(num_hidden_layers=10**5), "at most 1,000 layers, got 100,000"),
        (
            lambda config: config["mainnet_config"].update(num_labels=10**9),
            "at most 100,000 classes, got 1,000,000,000",
        ),
        (
            lambda config: config.update(id2label={str(i): str(i) for i in range(10**6)}),
            "100,000 classes, got 1,000,000",
        ),
    ],
    ids=["layers", "a number of classes", "classes"],
)
def test_what_no_classifier_has_is_refused_before_it_is_built(change, message, folder):
    edit(folder / "config.json", change)
    with pytest.raises(ValueError, match=message):
        SideNetConfig.from_pretrained(folder)
    done = run("info", folder)
    assert done.code == 2
    assert message in done.last


def test_labels_give_a_terminal_no_orders(folder):
    evil = "\x1b]0;owned\x07\x1b[31mgood\x9b2J"
    edit(folder / "config.json", lambda config: config.update(id2label={"0": "bad", "1": evil, "2": "so"}))
    done = run("info", folder)
    assert done.code == 0, done.err
    assert r"\x1b]0;owned\x07\x1b[31mgood\x9b2J" in done.out
    assert not {"\x1b", "\x07", "\x9b"} & {*done.out, *done.err}
    assert printable("two\nlines\tand é ✓ \r\u202e") == "two\nlines\tand é ✓ \\r\\u202e"


@pytest.mark.medium
def test_thresholds_that_are_no_numbers():
    model, ids = tiny.bert_with_sidenets().eval(), torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"`thresholds` must contain numbers that are ≥ 0, got a tensor of torch.bool"
    ):
        model(input_ids=ids, thresholds=torch.ones(2, 2, dtype=torch.bool))
    compiled = torch.compile(model, backend="eager", fullgraph=False)
    with torch.no_grad():
        fine = compiled(input_ids=ids, thresholds=torch.full((2, 2), 0.5)).exit_index
        assert torch.equal(fine, model(input_ids=ids, thresholds=torch.full((2, 2), 0.5)).exit_index)
        for wrong in (-0.5, float("nan")):
            with pytest.raises(RuntimeError, match="`thresholds` must contain numbers that are ≥ 0 and not NaN"):
                compiled(input_ids=ids, thresholds=torch.full((2, 2), wrong))


def test_a_manifest_names_a_file_once(tmp_path):
    stage = {"file": "a.onnx", "inputs": ["input_ids"], "outputs": ["hidden", "logits"]}
    last = {"file": "a.onnx", "inputs": ["hidden"], "outputs": ["logits"]}
    document = {
        "format": "onnx", "format_version": 1, "precision": "float32", "dtype": "float32", "is_text": True,
        "input_names": ["input_ids"], "max_length": None, "stages": [stage, last], "sha256": {"a.onnx": "0"},
        "versions": {},
    }  # fmt: skip
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(ValueError, match="an invalid list of stages, which names one file twice"):
        Manifest.read(tmp_path, "onnx")
