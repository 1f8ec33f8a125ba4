# SPDX-License-Identifier: Apache-2.0
"""`Recalibration.save`: a complete checkpoint folder from Python, like the one `hf-sidenet recalibrate` writes."""

import json

import pytest
from huggingface_hub import ModelCard

from hf_sidenet import load_checkpoint, recalibrate
from hf_sidenet.inference.stages import Stages

from ..attached import Runs, sentences


pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    path = tmp_path_factory.mktemp("checkpoint") / "mine"
    runs.text().save(path)
    return path


@pytest.fixture(scope="module")
def found(folder):
    return again(folder)


def again(folder, **kwargs):
    model, processor = load_checkpoint(folder)
    options = {"target": "disagreement<=0.1", "batch_size": 16, "progress": False, **kwargs}
    return recalibrate(model, processor, sentences()["validation"], **options)


def report_of(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_report_comes_from_where_the_model_was_loaded(found, folder, tmp_path):
    found.save(tmp_path / "new")
    before, after = report_of(folder), report_of(tmp_path / "new")
    assert after["mainnet"] == before["mainnet"]
    assert after["calibration"]["targets"][0]["target"] == "disagreement<=0.1"
    assert (before["evaluation"] is None, after["evaluation"]) == (False, None)
    model, _ = load_checkpoint(tmp_path / "new")
    assert model.config.thresholds == found.config.thresholds
    assert "disagreement<=0.1" in ModelCard.load(tmp_path / "new" / "README.md").text


def test_another_source(found, folder, tmp_path):
    found.save(tmp_path / "new", source=folder)
    assert report_of(tmp_path / "new")["mainnet"] == report_of(folder)["mainnet"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="report"):
        found.save(tmp_path / "newer", source=tmp_path / "empty")
    assert not (tmp_path / "newer").exists()


def test_a_folder_that_holds_something_needs_overwrite(found, folder, tmp_path):
    found.save(tmp_path / "new")
    with pytest.raises(ValueError, match="overwrite"):
        found.save(tmp_path / "new")
    found.save(tmp_path / "new", overwrite=True)
    assert report_of(tmp_path / "new")["mainnet"] == report_of(folder)["mainnet"]


def test_do_not_attach_has_nothing_to_save(folder, tmp_path):
    refused = again(folder, target="flops<=0.0001")
    assert refused.verdict == "do not attach"
    with pytest.raises(ValueError, match="there is no checkpoint to save"):
        refused.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_stages_without_a_folder_need_a_source(folder, tmp_path):
    model, _ = load_checkpoint(folder)
    found = again(folder, stages=Stages(model))
    with pytest.raises(ValueError, match="`source` must be given"):
        found.save(tmp_path / "new")
