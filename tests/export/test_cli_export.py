# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet export` as it is typed."""

import json

import pytest
import torch
from transformers import AutoTokenizer, ViTImageProcessor

from hf_sidenet.cli import checkpoints
from hf_sidenet.data import load_processor
from hf_sidenet.export import OnnxStages, TorchStages
from hf_sidenet.export.exported import MANIFEST
from hf_sidenet.inference import SideNetRunner
from hf_sidenet.models.modalities import TEXT

from ..cli.test_cli import contents, run, run_json
from ..examples.commands import minilm, save_pictures, sentences
from ..hub.folder import EVIDENCE
from ..models import tiny


pytestmark = pytest.mark.medium


pytest.importorskip("onnxruntime", reason='needs pip install "hf_sidenet[onnx]"')


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two checkpoints that nobody trained, and rows."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    mainnet = tiny.bert(vocab_size=len(tokenizer), num_labels=2, **names)
    model = tiny.BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[2], thresholds=0.8)
    model.config.calibration = EVIDENCE
    model.save_pretrained(folder / "texts")
    tokenizer.save_pretrained(folder / "texts")
    names = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    kind = tiny.ResNetWithSideNetForImageClassification
    kind.from_mainnet(tiny.resnet(num_labels=2, **names), exit_layers=[2], input_size=[3, 32, 32]).save_pretrained(
        folder / "images"
    )
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "images")
    save_pictures(folder / "pictures", 20)
    lines = [f"{text}\t{label}" for text, label in sentences(40)]
    (folder / "texts.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    (folder / "bare.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_commands_know_the_manifest():
    assert checkpoints.MANIFEST == MANIFEST


@pytest.mark.slow
def test_onnx(world, tmp_path):
    before = contents(world / "texts")
    done = run("export", world / "texts", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err[-2000:]
    lines = done.out.splitlines()
    assert lines[0] == f"{world / 'texts'} for ONNX Runtime, in float32."
    assert [line.split()[0] for line in lines[2:6]] == ["file", "stage_0_model.onnx", "stage_1_model.onnx", "total"]
    assert "Largest difference from the model's own x_c and logits, on rows of noise: " in done.out
    assert lines[-1] == f"Written to {tmp_path / 'out'}"
    assert "int8" not in done.out
    assert contents(world / "texts") == before
    tokenizer = load_processor(str(tmp_path / "out"), modality=TEXT)
    runner = SideNetRunner(OnnxStages.load(tmp_path / "out"), tokenizer)
    assert {each.label for each in runner.predict(["a good film", "a dull one"])} <= {"good", "bad"}
    done = run("export", world / "texts", "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("Error: --output-dir: must be new or empty unless --overwrite is given")
    found = run_json("info", tmp_path / "out")
    assert found["precision"] == "float32 (ONNX Runtime)"
    assert found["exits"][0]["threshold"] == 0.8


def test_torch(world, tmp_path):
    found = run_json("export", world / "texts", "--format", "torch", "--output-dir", tmp_path / "out")
    assert found["format"] == "torch"
    assert found["precision"] == "float32"
    assert found["largest_difference"] < 1e-6
    assert found["changed"] is None
    assert sorted(found["files"]) == ["stage_0.pt2", "stage_1.pt2"]
    stages = TorchStages.load(tmp_path / "out", trust_programs=True)
    assert stages.config.calibration["precision"] == "float32"
    with pytest.raises(ValueError, match="must be an exported folder of format 'onnx', version 1, got 'torch'"):
        OnnxStages.load(tmp_path / "out")
    assert run_json("info", tmp_path / "out")["precision"] == "float32 (torch.export)"


@pytest.mark.slow
def test_int8_of_texts(world, tmp_path):
    rows = ["--calibration-file", world / "bare.tsv", "--no-header", "--max-length", 5]
    done = run("export", world / "texts", "--int8", *rows, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err[-2000:]
    assert "of the largest value (before int8)." in done.out
    assert "Share of 40 calibration rows whose class int8 changes, by exit: SideNet 0 0.0 %, MainNet" in done.out
    said = f"hf-sidenet recalibrate {tmp_path / 'out'} --checkpoint {world / 'texts'} ..."
    assert f"θ was chosen in float32 and has no evidence behind it in int8. To certify θ in int8: {said}" in done.out
    assert OnnxStages.load(tmp_path / "out").config.calibration is None


def test_calibration_rows_are_from_all_over_the_file(world, tmp_path, monkeypatch):
    found = []

    def export(*_, calibration_rows, **__):
        found.extend(calibration_rows)
        raise ValueError("enough")

    monkeypatch.setattr("hf_sidenet.export.export_onnx", export)
    monkeypatch.setattr("hf_sidenet.cli.sharing.CALIBRATION_ROWS", 4)
    texts = ["one", "two", "three", "four", "five", "six", "seven"]
    lines = ["text\tlabel", *(f"{text}\t{('bad', 'good')[i % 2]}" for i, text in enumerate(texts))]
    (tmp_path / "seven.tsv").write_text("\n".join(lines) + "\n")
    rows = ["--calibration-file", tmp_path / "seven.tsv"]
    assert run("export", world / "texts", "--int8", *rows, "--output-dir", tmp_path / "out").last == "Error: enough"
    tokenizer = load_processor(str(world / "texts"), modality=TEXT)
    expected = [tokenizer(text)["input_ids"] for text in ("one", "two", "four", "six")]
    assert [list(row["input_ids"]) for row in found] == expected


@pytest.mark.slow
def test_int8_of_images(world, tmp_path):
    arguments = ["export", world / "images", "--int8", "--output-dir", tmp_path / "out"]
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.last == "Error: --calibration-file: must be given for int8 of the 12 convolutions, got none."
    assert not list(tmp_path.iterdir())
    found = run_json(*arguments, "--calibration-file", world / "pictures")
    assert found["precision"] == "int8"
    assert found["num_calibration_rows"] == 40
    assert len(found["changed"]) == 2
    assert found["calibrated_in"] is None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["exit_layers"] == [2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("T", "--output-dir: must be given."),
        ("O", "DIRECTORY: must be given."),
        ("T O --format pickle", "--format: "),
        ("T O --format torch --int8", "--int8: needs --format onnx, got --format torch."),
        ("T O --calibration-file R", "--calibration-file: is only used with --int8."),
        ("T O --dataset-name R", "--dataset-name: is only used with --int8"),
        ("T O --int8 --calibration-file nowhere.tsv", "--calibration-file: must be a file or a folder of pictures"),
        ("T O --int8 --calibration-file R --label-column stars", "--label-column: must be among the columns"),
        ("T O --int8 --calibration-file R --dataset-name R", "--dataset-name: must not be given together with"),
        ("T O --int8 --calibration-file P", "the MainNet reads texts, but the rows contain images"),
        ("nowhere O", "DIRECTORY: "),
        ("E O", "DIRECTORY: must be a checkpoint, got the exported folder "),
        ("T --output-dir T", "--output-dir: must not be or contain DIRECTORY"),
        ("T --output-dir W --int8 --calibration-file R", "--output-dir: must not be or contain "),
    ],
)
def test_one_line_errors(world, tmp_path, arguments, line):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "manifest.json").write_text("{}")
    short = {
        "T": [world / "texts"],
        "W": [world],
        "R": [world / "texts.tsv"],
        "P": [world / "pictures"],
        "E": [tmp_path / "exported"],
        "O": ["--output-dir", tmp_path / "out"],
    }
    done = run("export", *(each for word in arguments.split() for each in short.get(word, [word])))
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(f"Error: {line}")
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs(world, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_sidenet.export.agreement.TOLERANCES", {torch.float32: -1.0})
    done = run("export", world / "texts", "--format", "torch", "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.last.startswith("Error: ExportError: the exported x_c of stage 0 differs from the model's by ")
    assert not list(tmp_path.iterdir())
