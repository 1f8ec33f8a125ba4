# SPDX-License-Identifier: Apache-2.0
"""The folder that `attach` writes: complete or absent, private, and usable without this package."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hf_sidenet.evaluation.plots
from hf_sidenet.hub import check_shareable
from hf_sidenet.hub.push import save_checkpoint

from ..attached import Runs, pictures, sentences


pytestmark = pytest.mark.medium


HERE = Path(__file__).parent
PROCESSORS = {"text": "tokenizer.json", "image": "preprocessor_config.json"}
FIGURES = ["accuracy_cost.png", "confidences.png", "exit_shares.png", "reliability.png"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("secret-place"))


@pytest.fixture(scope="module")
def saved(runs):
    """The folders of a text and of an image model."""
    for name in ("text", "image"):
        getattr(runs, name)().save(runs.folder / name)
    return runs.folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save(result, folder, **kwargs):
    options = {"evaluation": result.evaluation, "records": result.test_records, **kwargs}
    processor = options.pop("processor", result.processor)
    save_checkpoint(folder, result.model, processor, result.report, **options)


def some_inputs(name, processor):
    if name == "text":
        return dict(processor(sentences()["test"]["text"][:32], padding=True, return_tensors="pt"))
    return dict(processor(pictures()["test"]["image"][:32], return_tensors="pt"))


@pytest.mark.parametrize("name", ["text", "image"])
def test_same_answers_and_the_code_of_the_card_without_the_package(name, runs, saved):
    result = getattr(runs, name)()
    inputs = some_inputs(name, result.processor)
    save_file(inputs, saved / "inputs.safetensors")
    pictures()["test"]["image"][0].save(saved / "image.png")
    env = {**os.environ, "HF_HOME": str(saved / "hf_home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(HERE / "load_folder.py"), name], check=True, env=env, cwd=saved)
    outputs = load_file(saved / "outputs.safetensors")
    with torch.no_grad():
        routed = result.model.eval()(**inputs)
        alone = result.model.mainnet.eval()(**inputs)
    torch.testing.assert_close(outputs["logits"], routed.logits, rtol=0, atol=1e-6)
    assert outputs["exit_index"].tolist() == routed.exit_index.tolist()
    assert 0 in outputs["exit_index"].tolist()
    torch.testing.assert_close(outputs["alone"], alone.logits, rtol=0, atol=1e-6)
    assert outputs["thresholds"].tolist() == result.model.config.thresholds
    assert outputs["temperatures"].tolist() == result.model.config.temperatures


@pytest.mark.parametrize("name", ["text", "image"])
def test_the_cards_code_asks_nothing(name, saved):
    """A server has no terminal for prompts."""
    pictures()["test"]["image"][0].save(saved / "image.png")
    card = (saved / name / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL))
    (saved / "card.py").write_text("import sys\nsys.modules['hf_sidenet'] = None\n" + code)
    env = {**os.environ, "HF_HOME": str(saved / f"hf_home_{name}"), "HF_HUB_OFFLINE": "1"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "card.py"], env=env, cwd=saved, **streams)
    assert done.returncode == 0, done.stdout
    assert "custom code" not in done.stdout


def test_the_tokenizer_needs_no_custom_code(runs, saved):
    found = AutoTokenizer.from_pretrained(saved / "text", trust_remote_code=False)
    texts = ["a very good film", "so dull, so dull"]
    assert found(texts, padding=True) == runs.text().processor(texts, padding=True)


@pytest.mark.parametrize(
    ("name", "processor_file"), [("text", "tokenizer.json"), ("image", "preprocessor_config.json")]
)
def test_what_the_folder_holds(name, processor_file, saved):
    names = set(contents(saved / name))
    assert {"config.json", "model.safetensors", "README.md", "report.json", "gate.py", processor_file} <= names
    assert sorted(n.removeprefix("figures/") for n in names if n.startswith("figures/")) == FIGURES
    # No rows, no labels, nothing pickled.
    assert {Path(n).suffix for n in names} == {".json", ".safetensors", ".md", ".py", ".png"}
    assert [n for n in names if n.endswith(".safetensors")] == ["model.safetensors"]
    assert [path.name for path in saved.iterdir() if path.name.endswith(".tmp")] == []


def test_the_config_holds_the_evidence(runs, saved):
    config = json.loads((saved / "text" / "config.json").read_text())
    result = runs.text()
    assert config["thresholds"] == result.model.config.thresholds
    assert config["temperatures"] == result.model.config.temperatures
    assert config["calibration"] == result.report["calibration"]


@pytest.mark.parametrize("name", ["text", "image"])
def test_nothing_speaks_against_sharing_it(name, saved):
    found = check_shareable(saved / name)
    assert (found.errors, found.warnings, found.left_out) == ([], [], [])
    assert found.notes == ["README.md names no license, so others may not use it."]


@pytest.mark.parametrize("name", ["text", "image"])
def test_no_path_of_this_machine(name, runs, saved):
    assert str(runs.folder) in getattr(runs, name)().report["mainnet"]["name"]
    # The folder of the runs has a unique name.
    words = [runs.folder.name, str(runs.folder.parent), str(HERE.parent), "mainnet-text", "mainnet-image"]
    for file, data in contents(saved / name).items():
        assert not [word for word in words if word.encode() in data], file


@pytest.mark.parametrize("name", ["text", "image"])
def test_the_report_is_strict_json(name, runs, saved):
    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((saved / name / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["mainnet"].pop("name") is None
    report = getattr(runs, name)().report
    assert read["settings"] == report["settings"]
    assert read["evaluation"]["num_rows"] == 80
    assert read.keys() == {*report, "files"}
    assert set(read["files"]) == set(contents(saved / name))


@pytest.mark.parametrize(("name", "task"), [("text", "text-classification"), ("image", "image-classification")])
def test_the_card_as_the_hub_reads_it(name, task, runs, saved):
    card = ModelCard.load(saved / name / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", task)
    assert (card.data.base_model, card.data.tags) == (None, ["sidenet", "early-exit"])
    assert card.data.model_name == name
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["accuracy, MainNet alone"] == getattr(runs, name)().evaluation.reference_accuracy.value
    assert [result.metric_type for result in card.data.eval_results] == [
        *("accuracy", "accuracy", "flops", "params", "milliseconds"),
    ]
    for figure in FIGURES:
        assert f"](figures/{figure})" in card.text
    promise = r"\*\*With probability ≥ 0\.95 over the \d+ certification rows, the accuracy drop is ≤"
    assert re.search(promise, card.text)


def test_a_folder_that_holds_something_needs_overwrite(runs, saved, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="`overwrite`"):
        runs.text().save(folder)
    assert contents(folder) == {"note.txt": b"mine"}
    runs.text().save(folder, overwrite=True)
    assert set(contents(folder)) == {*contents(saved / "text"), "note.txt"}
    assert os.listdir(tmp_path) == ["mine"]


class Breaks(PreTrainedTokenizerFast):
    def save_pretrained(self, folder):
        Path(folder, "half.json").write_text("{")
        raise OSError("disk full")


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_while_writing_leaves_everything_as_it_was(existing, runs, tmp_path):
    folder = tmp_path / "mine"
    if existing:
        save(runs.text(), folder, evaluation=None, records=None)
    before = contents(tmp_path)
    tokenizer = copy.copy(runs.text().processor)
    tokenizer.__class__ = Breaks
    with pytest.raises(OSError, match="disk full"):
        save(runs.text(), folder, processor=tokenizer, overwrite=True)
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["mine"] * existing


@pytest.mark.parametrize("existing", [False, True])
def test_killed_while_writing(existing, runs, saved, tmp_path):
    folder, started = tmp_path / "mine", tmp_path / "started"
    if existing:
        save(runs.text(), folder, evaluation=None, records=None)
    before = contents(folder) if existing else None
    command = [sys.executable, str(HERE / "write_folder_slowly.py"), str(saved / "text"), str(folder), str(started)]
    process = subprocess.Popen(command, cwd=HERE.parent, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    try:
        deadline = time.monotonic() + 600
        while not started.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert started.exists()
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    started.unlink()
    assert (contents(folder) if folder.exists() else None) == before
    leftovers = [path for path in tmp_path.iterdir() if path != folder]
    assert len(leftovers) == 1
    assert (leftovers[0] / "new" / "half.json").exists()
    save(runs.text(), folder, overwrite=existing)
    assert os.listdir(tmp_path) == ["mine"]
    assert set(contents(folder)) == set(contents(saved / "text"))


def test_without_matplotlib_only_the_figures_are_missing(runs, saved, tmp_path, monkeypatch):
    def missing(module, extra):
        raise ImportError(f'This needs {module}: pip install "hf_sidenet[{extra}]"')

    monkeypatch.setattr(hf_sidenet.evaluation.plots, "require", missing)
    save(runs.text(), tmp_path / "text")
    names = {name for name in contents(saved / "text") if not name.startswith("figures/")}
    assert set(contents(tmp_path / "text")) == names
    assert "figures/" not in (tmp_path / "text" / "README.md").read_text(encoding="utf-8")


def test_without_a_processor_and_test_rows(runs, tmp_path):
    save(runs.text(), tmp_path / "text", processor=None, evaluation=None, records=None)
    assert not {"tokenizer.json", "figures"} & set(os.listdir(tmp_path / "text"))


def test_what_cannot_be_saved_is_refused_before_anything_is_written(runs, tmp_path):
    result = runs.text()
    with pytest.raises(ValueError, match="`evaluation` and `records` must be given together, got only `evaluation`"):
        save(result, tmp_path / "mine", records=None)
    with pytest.raises(ValueError, match="there is no checkpoint to save: no threshold is within the budget"):
        runs.refused().save(tmp_path / "mine")
    calibration = result.model.config.calibration
    try:
        result.model.config.calibration = None
        with pytest.raises(ValueError, match="`model` must be calibrated"):
            save(result, tmp_path / "mine")
    finally:
        result.model.config.calibration = calibration
    assert os.listdir(tmp_path) == []
