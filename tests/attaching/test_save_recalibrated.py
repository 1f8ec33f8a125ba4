# SPDX-License-Identifier: Apache-2.0
"""An exported folder with new θ: its own files are rewritten, other files are kept."""

import json

import pytest

from hf_sidenet.hub.push import save_recalibrated
from hf_sidenet.io.folder_kinds import walk_files

from ..models import tiny


THEIRS = {"LICENSE": "mine", "README.md": "mine", ".git/HEAD": "main", "data.bin": "large"}


@pytest.fixture
def source(tmp_path):
    """A folder written by an earlier version, without a list of files."""
    folder = tmp_path / "source"
    ours = {"config.json": "{}", "tokenizer.json": "{}", "stage_0_model.onnx": "0", "stage_1_model.onnx": "1"}
    (folder / ".git").mkdir(parents=True)
    for name, content in {**ours, **THEIRS}.items():
        (folder / name).write_text(content)
    (folder / "manifest.json").write_text(json.dumps({"format": "onnx", "stages": [], "sha256": {}}))
    return folder


def listed(folder):
    return sorted(json.loads((folder / "manifest.json").read_text())["files"])


@pytest.fixture(scope="module")
def config():
    return tiny.bert_with_sidenets(thresholds=[0.25, 0.75]).config


OURS = ["config.json", "manifest.json", "stage_0_model.onnx", "stage_1_model.onnx", "tokenizer.json"]


def test_beside_its_source(source, config, tmp_path):
    before = {name: (source / name).read_text() for name in walk_files(source)}
    save_recalibrated(tmp_path / "new", source, config)
    assert {name: (source / name).read_text() for name in walk_files(source)} == before
    # Shareable files are copied, and still count as the user's own.
    assert sorted(walk_files(tmp_path / "new")) == sorted([*OURS, "LICENSE", "README.md"])
    assert listed(tmp_path / "new") == OURS
    assert json.loads((tmp_path / "new" / "config.json").read_text())["thresholds"] == [0.25, 0.75]
    (tmp_path / "new" / "LICENSE").write_text("theirs")
    with pytest.raises(ValueError, match="where LICENSE was not written by this package"):
        save_recalibrated(tmp_path / "new", source, config, overwrite=True)


def test_in_place(source, config):
    # The second time there is a list.
    for _ in range(2):
        save_recalibrated(source, source, config, overwrite=True)
        assert sorted(walk_files(source)) == sorted([*OURS, *THEIRS])
        assert {name: (source / name).read_text() for name in THEIRS} == THEIRS
        assert listed(source) == OURS
        assert json.loads((source / "config.json").read_text())["thresholds"] == [0.25, 0.75]
