# SPDX-License-Identifier: Apache-2.0
import json
import os

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_sidenet.evaluation import ExitReport
from hf_sidenet.hub.push import write_model_card
from hf_sidenet.hub.shared_files import shared_files
from tests.evaluation.test_report import report


CHOSEN = {
    "accuracy, MainNet alone": 0.8,
    "accuracy, θ = 0.5": 0.8,
    "FLOPs per row, fraction of the MainNet's": 0.25,
    "parameters per row, fraction of the MainNet's": 10 / 1234,
    "milliseconds per row, fraction of the MainNet's": 0.5,
}
OLD = """---
license: mit
library_name: mylib
tags:
- mine
- sidenet
base_model: me/mainnet
---

# My own title

My own text.
"""


def write(folder, made=None, **kwargs):
    arguments = {"task": "text-classification", "mainnet": "me/mainnet", "dataset": "me/data", "split": "test"}
    write_model_card(folder, made or report(), **{**arguments, **kwargs})
    return ModelCard.load(folder / "README.md")


def results(card):
    return {result.metric_name: result.metric_value for result in card.data.eval_results}


def test_a_new_card(tmp_path):
    folder = tmp_path / "my-sidenet"
    folder.mkdir()
    card = write(folder)
    assert os.listdir(folder) == ["README.md"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert (card.data.base_model, card.data.tags) == ("me/mainnet", ["sidenet", "early-exit"])
    assert card.data.model_name == "my-sidenet"
    assert results(card) == pytest.approx(CHOSEN)
    first = card.data.eval_results[0]
    assert (first.task_type, first.dataset_type, first.dataset_name) == ("text-classification", "me/data", "me/data")
    assert (first.dataset_split, first.metric_type) == ("test", "accuracy")
    assert [result.metric_type for result in card.data.eval_results[2:]] == ["flops", "params", "milliseconds"]
    about = "mainnet with SideNets (early exits), evaluated on me/data."
    assert f"# my-sidenet\n\n{about}\n\n## Early exits\n" in card.text
    assert "trust_remote_code=True" in card.text
    assert card.text.endswith(report().text() + "\n")


def test_the_model_index_as_the_hub_reads_it(tmp_path):
    write(tmp_path)
    _, header, _ = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (model,) = yaml.safe_load(header)["model-index"]
    (entry,) = model["results"]
    assert entry["task"] == {"type": "text-classification"}
    assert entry["dataset"] == {"name": "me/data", "type": "me/data", "split": "test"}
    assert {metric["name"]: metric["value"] for metric in entry["metrics"]} == pytest.approx(CHOSEN)


def test_images(tmp_path):
    assert write(tmp_path, task="image-classification").data.pipeline_tag == "image-classification"


def test_without_validation_rows_only_the_mainnet_has_a_result(tmp_path):
    assert results(write(tmp_path, report(None))) == {"accuracy, MainNet alone": pytest.approx(0.8)}


def test_what_was_in_the_card_stays(tmp_path):
    (tmp_path / "README.md").write_text(OLD)
    card = write(tmp_path)
    assert (card.data.license, card.data.library_name) == ("mit", "mylib")
    assert card.data.tags == ["mine", "sidenet", "early-exit"]
    assert card.text.strip().startswith("# My own title\n\nMy own text.\n\n## Early exits\n")


def test_a_card_without_metadata(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    card = write(tmp_path)
    assert card.data.library_name == "transformers"
    assert results(card) == pytest.approx(CHOSEN)
    assert card.text.strip().startswith("# Mine\n\n## Early exits\n")


def test_written_again_the_section_and_the_results_are_replaced(tmp_path):
    write(tmp_path)
    path = tmp_path / "README.md"
    first = path.read_text(encoding="utf-8")
    write(tmp_path)
    assert path.read_text(encoding="utf-8") == first
    path.write_text(first + "\n### A note on them\n\n## Licence\n\nMine too.\n", encoding="utf-8")
    card = write(tmp_path, report(max_accuracy_drop=0.1))
    assert card.text.count("## Early exits\n") == 1
    assert card.text.count("at most 10.0% less accuracy") == 1
    assert "at most 0.5% less" not in card.text
    # Text after the section does not belong to it.
    assert "Mine too.\n\n## Early exits\n" in card.text
    assert len(card.data.eval_results) == 5


def test_results_on_other_data_stay(tmp_path):
    card = write(tmp_path, dataset="me/other")
    card.data.eval_results.append(
        EvalResult("text-classification", "me/data", "me/data", "f1", 0.5, dataset_split="validation")
    )
    card.save(tmp_path / "README.md")
    card = write(tmp_path)
    rows = [(result.dataset_type, result.dataset_split) for result in card.data.eval_results]
    assert rows.count(("me/other", "test")) == 5
    assert rows.count(("me/data", "validation")) == 1
    assert rows.count(("me/data", "test")) == 5


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_is_no_base_model(existing, tmp_path):
    if existing:
        (tmp_path / "README.md").write_text(OLD)
    mainnet = tmp_path / "private" / "bert"
    mainnet.mkdir(parents=True)
    card = write(tmp_path, mainnet=str(mainnet))
    assert card.data.base_model == ("me/mainnet" if existing else None)
    assert "private" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_mainnet_without_a_name(tmp_path):
    card = write(tmp_path, mainnet="")
    assert card.data.base_model is None
    assert "\nA MainNet with SideNets (early exits)" in card.text


def test_another_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`task` must be one of .*'text-classification'.*, got 'audio'"):
        write(tmp_path, task="audio")
    assert not os.listdir(tmp_path)


def test_a_failed_write_keeps_the_old_card(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(OLD)
    # A lone surrogate cannot be encoded.
    monkeypatch.setattr(ExitReport, "text", lambda self: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path)
    assert (tmp_path / "README.md").read_text() == OLD
    assert os.listdir(tmp_path) == ["README.md"]


def shared(folder, *names, manifest=()):
    """Which of these files would be uploaded."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    if manifest:
        (folder / "manifest.json").write_text(json.dumps({"sha256": dict.fromkeys(manifest, "ab")}))
    files, left_out = shared_files(folder)
    assert not set(files) & set(left_out)
    assert set(names) <= {*files, *left_out}
    return [name for name in names if name in files]


@pytest.mark.parametrize(
    "path",
    [
        *("training_args.bin", "checkpoint-6/optimizer.pt", "checkpoint-6/model.safetensors", "epoch_0/optimizer.bin"),
        *("epoch_0/random_states_0.pkl", "runs/Nov20/events.out.tfevents.1", ".cache/x", ".README.md.1a.tmp"),
        *("sub/scheduler.pt", "Checkpoint-6/model.safetensors", "Runs/a.json", "checkpoint-6/LICENSE", ".env"),
    ],
)
def test_training_state_is_not_shared(path, tmp_path):
    assert not shared(tmp_path, path)


@pytest.mark.parametrize(
    "path",
    [
        *("w.PKL", "opt.pth.tar", "m.dill", "x.joblib", "a.npy", "a.NpZ", "state.h5", "stray.pt2", "x.Pth", "w.CKPT"),
        *("data.json.pkl", "weights", "LICENSE.pkl", "license-1.pkl", "model.onnx.data", "x.unheard"),
        "sub/.gitattributes",
    ],
)
def test_what_no_checkpoint_has_is_not_shared(path, tmp_path):
    assert not shared(tmp_path, path)


@pytest.mark.parametrize(
    "path",
    [
        *("model.safetensors", "gate.py", "vocab.txt", "config.json", "README.md", "sweep.csv", "figures/x.png"),
        *("figures/x.SVG", "spiece.model", "stage_0_model.onnx", "chat_template.jinja", "a.yml", "LICENSE"),
        *(
            "LICENSE-MIT",
            "stage_0_model_quantized.onnx",
            "stage_0.onnx",
            "LICENSE-APACHE-2.0",
            "LICENSE.txt",
            "NOTICE",
            ".gitattributes",
            "a[1]*.json",
        ),
    ],
)
def test_a_checkpoint_is_shared(path, tmp_path):
    assert shared(tmp_path, path) == [path]


def test_programs_are_shared_where_a_manifest_names_them(tmp_path):
    names = ("stage_0.pt2", "stage_1_model.onnx.data", "stage_1.pt2", "w.pkl", "sub/stage_0.pt2")
    manifest = ("stage_0.pt2", "stage_1_model.onnx.data", "w.pkl")
    assert shared(tmp_path, *names, manifest=manifest) == ["stage_0.pt2", "stage_1_model.onnx.data"]


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"sha256": 3}', '{"sha256": ["stage_0.pt2"]}'], ids=range(5)
)
def test_a_manifest_that_is_none_names_nothing(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    assert not shared(tmp_path, "stage_0.pt2")
