# SPDX-License-Identifier: Apache-2.0
"""Pickles and tokens are never uploaded, whatever the file's name or size, including those in exported folders."""

import hashlib
import json
import zipfile

import pytest
import torch

from hf_sidenet.export import export_onnx, export_torch
from hf_sidenet.hub import check_shareable
from hf_sidenet.hub import preflight as words

from ..cli.test_cli import run
from ..models import tiny
from .folder import TOKEN, change_json


def test_what_may_be_pickled_stays_here(folder):
    names = ["w.PKL", "opt.pth.tar", "m.dill", "x.joblib", "a.npy", "state.h5", "stray.pt2", "weights"]
    for name in names:
        (folder / name).write_text("x")
    found = check_shareable(folder)
    assert sorted(found.left_out) == sorted(names)
    assert not set(names) & set(found.files)
    (note,) = found.notes
    assert all(name in note for name in ("w.PKL", "opt.pth.tar", "m.dill", "x.joblib", "a.npy", "state.h5"))


@pytest.mark.medium
@pytest.mark.parametrize("where", [0, 1, 100, 63, 64, 65, 40, 127, 128, 191, 1000])
@pytest.mark.parametrize("size", [7, 64, 1 << 20])
def test_a_token_is_found_wherever_it_stands(where, size, folder, monkeypatch):
    monkeypatch.setattr(words, "BLOCK", size)
    path = folder / "long.txt"
    shortest = "hf_" + "x" * 30
    path.write_text(" " * where + shortest + " " * 200)
    assert [error for error in check_shareable(folder).errors if "long.txt contains" in error]
    # A longer word with this ending is not a token.
    path.write_text(" " * where + "x" + shortest + " " * 200)
    assert check_shareable(folder).errors == []


@pytest.mark.medium
def test_places_are_found_in_blocks(folder, monkeypatch):
    monkeypatch.setattr(words, "BLOCK", 16)
    for where in range(0, 64, 5):
        (folder / "long.txt").write_text("." * where + f"{folder.resolve().parent}/here")
        assert [warning for warning in check_shareable(folder).warnings if "long.txt contains a path" in warning]


def test_a_large_file_is_looked_at(folder):
    (folder / "long.csv").write_bytes(b"1,2,3\n" * 9_000_000 + TOKEN.encode())
    assert [error for error in check_shareable(folder).errors if "long.csv contains" in error]


def test_numbers_are_not_looked_at(folder):
    (folder / "figures" / "b.png").write_text(TOKEN)
    assert check_shareable(folder).errors == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_exported_folders(format, tmp_path):
    folder = tmp_path / "exported"
    (export_onnx if format == "onnx" else export_torch)(tiny.bert_with_sidenets([1]), folder)
    found = check_shareable(folder)
    assert (found.errors, found.code) == ([], {})
    assert {"manifest.json", "config.json"} < set(found.files)
    assert any("can run code" in note for note in found.notes) == (format == "torch")
    assert any("no model card" in warning for warning in found.warnings)
    stage = next(folder.glob("stage_1*"))
    content = stage.read_bytes()
    stage.write_bytes(content[:-1] + b"x")
    assert [error for error in check_shareable(folder).errors if f"{stage.name} is not the file" in error]
    stage.write_bytes(content)
    change_json(folder / "config.json", thresholds=["x"])
    assert [error for error in check_shareable(folder).errors if "no usable config.json" in error]
    (folder / "manifest.json").write_text("{")
    assert [error for error in check_shareable(folder).errors if "manifest.json cannot be read" in error]
    (folder / "manifest.json").write_text("[" * 100_000)
    assert [error for error in check_shareable(folder).errors if "manifest.json cannot be read" in error]


def sign(folder, file):
    """Update the hash of a file in the manifest."""
    document = json.loads((folder / "manifest.json").read_text())
    document["sha256"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))


def pickled(path):
    torch.save({"x": torch.zeros(1)}, path)


def garbled(path):
    path.write_text("x")


def nested(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data/weights/model_weights_config.json", "[" * 100_000)


@pytest.mark.medium
def test_programs_that_are_pickled(tmp_path):
    folder = tmp_path / "exported"
    export_torch(tiny.bert_with_sidenets([1]), folder)
    for damage, message in (
        (pickled, "stage_1.pt2 must contain only raw tensors and JSON, but has 'stage_1/data.pkl'"),
        (garbled, "stage_1.pt2 must be a torch.export archive"),
        (nested, "stage_1.pt2 must be a torch.export archive"),
    ):
        damage(folder / "stage_1.pt2")
        sign(folder, "stage_1.pt2")
        assert [error for error in check_shareable(folder).errors if message in error], check_shareable(folder).errors
    # It is a program under any name.
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "stage_1.pt2").rename(folder / "stage_1.onnx")
    pickled(folder / "stage_1.onnx")
    document["sha256"]["stage_1.onnx"] = document["sha256"].pop("stage_1.pt2")
    document["stages"][1]["file"] = "stage_1.onnx"
    (folder / "manifest.json").write_text(json.dumps(document))
    sign(folder, "stage_1.onnx")
    assert [error for error in check_shareable(folder).errors if "stage_1.onnx must contain only raw tensors" in error]


@pytest.mark.medium
def test_a_stray_program_stays_here(tmp_path):
    folder = tmp_path / "exported"
    export_torch(tiny.bert_with_sidenets([1]), folder)
    pickled(folder / "stray.pt2")
    found = check_shareable(folder)
    assert (found.errors, found.left_out) == ([], ["stray.pt2"])


@pytest.mark.slow
def test_an_exported_folder_without_shapes(tmp_path):
    folder = tmp_path / "exported"
    export_onnx(tiny.bert_with_sidenets([1]), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_shapes": None}))
    done = run("info", folder)
    assert done.code == 2
    assert "no usable config.json: `block_shapes` must be a list of shapes, got None" in done.last
    assert [error for error in check_shareable(folder).errors if "`block_shapes`" in error]
    (folder / "manifest.json").write_text("[" * 100_000)
    done = run("info", folder)
    assert done.code == 2
    assert "manifest.json cannot be read" in done.last
