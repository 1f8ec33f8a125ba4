# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet recalibrate --dtype`, and what other commands print about such a checkpoint."""

import copy
import json
import shutil

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.hub import check_shareable
from hf_sidenet.models import SideNetConfig

from ..attached import Runs, sentences
from .test_cli import contents, run, run_json


pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, and rows in files."""
    folder = tmp_path_factory.mktemp("world")
    Runs(folder).text().save(folder / "checkpoint")
    for split, rows in sentences().items():
        rows.to_json(folder / f"{split}.jsonl")
    return folder


def num_stages(world):
    return len(SideNetConfig.from_pretrained(world / "checkpoint").exit_layers) + 1


def recalibrating(world, *more, directory="checkpoint"):
    target = [] if "--target" in more else ["--target", "disagreement<=0.1"]
    return ["recalibrate", world / directory, "--validation-file", world / "validation.jsonl", *target, *more]


@pytest.fixture(scope="module")
def cast(world):
    """The checkpoint in bfloat16, and what `--json` printed."""
    before = contents(world / "checkpoint")
    found = run_json(*recalibrating(world, "--dtype", "bfloat16", "--output-dir", world / "cast"))
    assert contents(world / "checkpoint") == before
    return found


def test_the_folder_is_in_the_precision_that_was_calibrated(world, cast):
    model, _ = load_checkpoint(world / "cast")
    assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
    assert model.config.thresholds == cast["thresholds"]
    evidence = json.loads((world / "cast" / "report.json").read_text())["calibration"]
    assert evidence == cast["calibration"] == model.config.calibration
    assert (cast["precision"], evidence["precision"]) == ("bfloat16", "bfloat16")
    assert (evidence["reference"], evidence["reference_precision"]) == ("stored", "float32")


def test_what_is_printed_says_it(world, cast, tmp_path):
    done = run(*recalibrating(world, "--dtype", "bfloat16", "--output-dir", tmp_path / "out"))
    assert done.code == 0, done.err[-2000:]
    sentence = "Certified in bfloat16 against the float32 classifier, the MainNet of the checkpoint"
    assert sentence in done.out
    said = run("info", world / "cast").out
    assert sentence in said
    assert "4 blocks, bfloat16." in said
    assert sentence not in run("info", world / "checkpoint").out


def test_the_former_classifier_is_named_for_comparing(world, cast):
    arguments = ["evaluate", world / "cast", "--test-file", world / "test.jsonl"]
    alone = run(*arguments)
    assert "θ was chosen against the float32 MainNet that this one was made from: use --reference to" in alone.out
    # For a checkpoint with SideNets, the reference is its MainNet as stored.
    found = run_json(*arguments, "--reference", world / "checkpoint")
    expected = run_json("evaluate", world / "checkpoint", "--test-file", world / "test.jsonl")
    accuracies = [each["evaluation"]["reference_accuracy"]["value"] for each in (found, expected)]
    assert accuracies[0] == accuracies[1]
    named = run(*arguments, "--reference", world / "checkpoint")
    assert named.code == 0, named.err[-2000:]
    assert "to compare with it" not in named.out


def test_a_named_classifier_keeps_its_precision(world, cast, tmp_path):
    arguments = ["--reference", world / "checkpoint", "--output-dir", tmp_path / "out"]
    found = run_json(*recalibrating(world, *arguments, directory="cast"))
    evidence = found["calibration"]
    assert (evidence["precision"], evidence["reference"], evidence["reference_precision"]) == (
        "bfloat16", "other", "float32",
    )  # fmt: skip
    said = run("info", tmp_path / "out").out
    assert "Certified in bfloat16 against the float32 classifier, another classifier" not in said
    assert "Certified in bfloat16 against another classifier, in float32." in said


def test_in_place(world, tmp_path):
    folder = shutil.copytree(world / "checkpoint", tmp_path / "copy")
    done = run(*recalibrating(world, "--dtype", "float16", "--overwrite", directory=folder))
    assert done.code == 0, done.err[-2000:]
    assert load_checkpoint(folder)[0].dtype == torch.float16


def test_nothing_is_written_where_nothing_is_found(world, tmp_path):
    arguments = ["--target", "flops<=0.0001", "--dtype", "bfloat16", "--output-dir", tmp_path / "out"]
    done = run(*recalibrating(world, *arguments))
    assert done.code == 3, done.err[-2000:]
    assert "Precision: bfloat16." in done.out
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def deep(world):
    """A checkpoint whose SideNets read blocks."""
    Runs(world / "deep-runs").text(exit_layers=[1, 2]).save(world / "deep")
    return "deep"


def test_retrained(world, deep, tmp_path):
    before = contents(world / deep)
    arguments = recalibrating(world, "--dtype", "bfloat16", "--output-dir", tmp_path / "out", directory=deep)
    done = run(*arguments, "--retrain")
    assert (done.code, done.last) == (2, "Error: --train-file: must be given with --retrain.")
    done = run(*arguments)
    assert "trained in float32, but read bfloat16: --retrain, with training rows, trains them" in done.out
    training = ["--train-file", world / "train.jsonl", "--retrain", "--overwrite"]
    done = run(*arguments, *training)
    assert done.code == 0, done.err[-2000:]
    assert "The SideNets were retrained in bfloat16." in done.out
    assert "but read" not in done.out
    assert contents(world / deep) == before
    old, new = (load_checkpoint(world_or_out)[0] for world_or_out in (world / deep, tmp_path / "out"))
    assert new.config.calibration["sidenet_precision"] == "bfloat16"
    assert not torch.equal(old.sidenets[0].dense.weight.bfloat16(), new.sidenets[0].dense.weight)
    assert check_shareable(tmp_path / "out").ok
    # They were trained for bfloat16: nothing more to say.
    arguments = recalibrating(world, "--output-dir", tmp_path / "later", directory=tmp_path / "out")
    assert "but read" not in run(*arguments).out


@pytest.mark.slow
def test_an_exported_folder_is_retrained(world, deep, tmp_path):
    pytest.importorskip("onnxruntime")
    from hf_sidenet.export.onnx_export import export_onnx

    model, tokenizer = load_checkpoint(world / deep)
    export_onnx(model, tmp_path / "int8", processor=tokenizer, int8=True, progress=False)
    (tmp_path / "int8" / "LICENSE").write_text("mine")
    training = ["--checkpoint", world / deep, "--train-file", world / "train.jsonl", "--retrain", "--overwrite"]
    before = contents(tmp_path / "int8")
    # In place, and again for another target.
    for target in ("disagreement<=0.1", "disagreement<=0.15"):
        found = run_json(*recalibrating(world, *training, "--target", target, directory=tmp_path / "int8"))
        assert (found["precision"], found["sidenet_precision"]) == ("int8 (ONNX Runtime)",) * 2
        assert found["retrained"]
    after = contents(tmp_path / "int8")
    changed = {str(name) for name in before if before[name] != after.get(name)}
    last = f"stage_{len(model.config.exit_layers)}_model_quantized.onnx"
    stages = {str(name) for name in before if str(name).startswith("stage_")}
    assert changed == {"config.json", "manifest.json", *stages} - {last}
    assert before.keys() == after.keys()
    assert check_shareable(tmp_path / "int8").ok
    assert "Not certified" not in run("info", tmp_path / "int8").out


@pytest.fixture(scope="module")
def exported(world):
    """The checkpoint in int8, for ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    from hf_sidenet.export.onnx_export import export_onnx

    model, tokenizer = load_checkpoint(world / "checkpoint")
    export_onnx(model, world / "int8", processor=tokenizer, int8=True, progress=False)
    return world / "int8"


@pytest.mark.slow
def test_an_exported_folder(world, exported, tmp_path):
    from hf_sidenet.export.onnx import OnnxStages

    before, checkpoint = contents(exported), contents(world / "checkpoint")
    arguments = recalibrating(world, "--checkpoint", world / "checkpoint", directory="int8")
    found = run_json(*arguments, "--output-dir", tmp_path / "out")
    assert (found["verdict"], found["precision"]) == ("attach", "int8 (ONNX Runtime)")
    assert (contents(exported), contents(world / "checkpoint")) == (before, checkpoint)
    after = contents(tmp_path / "out")
    changed = {str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # The manifest lists the files, with hashes.
    assert changed == {"config.json", "manifest.json"}
    old, new = (json.loads((folder / "manifest.json").read_text()) for folder in (exported, tmp_path / "out"))
    assert {name for name in old if old[name] != new[name]} == {"files"}
    assert {name for name, digest in old["files"].items() if new["files"][name] != digest} == {"config.json"}
    config = OnnxStages.load(tmp_path / "out").config
    assert (config.thresholds, config.temperatures) == (found["thresholds"], found["temperatures"])
    assert config.calibration == found["calibration"]
    # Nothing else changed.
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (exported, tmp_path / "out"))
    assert {name for name in old | new if old.get(name) != new.get(name)} == {
        "thresholds", "temperatures", "calibration",
    }  # fmt: skip
    # In place.
    done = run(*arguments[:1], tmp_path / "out", *arguments[2:], "--overwrite")
    assert done.code == 0, done.err[-2000:]
    assert "Certified in int8 (ONNX Runtime) against the float32 classifier, the MainNet of the check" in done.out
    assert "cpu, int8 (ONNX Runtime)" in done.out
    assert done.out.rstrip().endswith(f"Written to {tmp_path / 'out'}")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]["num_calibrations"] == 2


def test_info_of_an_exported_folder(world, exported, tmp_path):
    said = run("info", exported)
    assert said.code == 0, said.err[-2000:]
    assert f"{exported}: {num_stages(world)} exported stages, int8 (ONNX Runtime). 2 classes: bad, good." in said.out
    assert (
        "θ has no evidence behind it. To certify θ: hf-sidenet recalibrate DIRECTORY --checkpoint CHECKPOINT"
        in said.out
    )
    arguments = recalibrating(world, "--checkpoint", world / "checkpoint", directory="int8")
    found = run_json(*arguments, "--output-dir", tmp_path / "out")
    info = run_json("info", tmp_path / "out")
    assert [each["threshold"] for each in info["exits"]] == found["thresholds"]
    assert [each["exit_layer"] for each in info["exits"]] == found["exit_layers"]
    assert info["calibration"] == found["calibration"]
    assert "Certified in int8 (ONNX Runtime) against the float32 classifier" in run("info", tmp_path / "out").out
    assert info["not_certified"] is None
    path = tmp_path / "out" / "tokenizer.json"
    path.write_text(path.read_text().replace('"good"', '"fine"'))
    assert "the tokenizer or image processor is not the one" in run_json("info", tmp_path / "out")["not_certified"]
    errors = check_shareable(tmp_path / "out").errors
    assert any("the tokenizer or image processor is not the one" in error for error in errors)


@pytest.mark.slow
def test_info_of_programs_runs_nothing(world, tmp_path, monkeypatch):
    """`info` works on a torch.export folder without loading its programs, which may be untrusted."""
    from hf_sidenet.export.torch_export import export_torch

    model, tokenizer = load_checkpoint(world / "checkpoint")
    export_torch(model, tmp_path / "programs", tokenizer)
    monkeypatch.setattr("torch.export.load", lambda path: pytest.fail(path))
    said = run("info", tmp_path / "programs")
    assert said.code == 0, said.err[-2000:]
    assert f"{num_stages(world)} exported stages, float32 (torch.export)." in said.out
    assert "the accuracy drop is ≤ 0.05" in said.out
    arguments = ["--checkpoint", world / "checkpoint", "--output-dir", tmp_path / "out"]
    done = run(*recalibrating(world, *arguments, directory=tmp_path / "programs"))
    assert done.code == 2
    assert done.last.startswith("Error: DIRECTORY: must be an exported folder of format 'onnx'")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--checkpoint: must be given for an exported DIRECTORY, got "),
        (["--checkpoint", "here", "--dtype", "bfloat16"], "--dtype: must not be given for an exported DIRECTORY"),
        (["--checkpoint", "nowhere"], "--checkpoint: "),
        (
            ["--checkpoint", "other"],
            "--checkpoint: must be what DIRECTORY was exported from: must have the same exit_layers",
        ),
        (
            ["--checkpoint", "twin"],
            "--checkpoint: must be what DIRECTORY was exported from: must have the same weights as `model`, got",
        ),
    ],
)
def test_one_line_errors_of_an_exported_folder(world, exported, tmp_path, arguments, line):
    places = {"here": world / "checkpoint", "other": tmp_path / "other", "twin": tmp_path / "twin"}
    model, tokenizer = load_checkpoint(world / "checkpoint")
    twin = copy.deepcopy(model)
    next(twin.sidenets.parameters()).data += 1e-3
    twin.save_pretrained(tmp_path / "twin")
    tokenizer.save_pretrained(tmp_path / "twin")
    mainnet = type(model).from_mainnet(model.mainnet, exit_layers=[1])
    mainnet.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    arguments = [places.get(word, word) for word in arguments]
    done = run(*recalibrating(world, *arguments, "--output-dir", tmp_path / "out", directory="int8"))
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(f"Error: {line}")
    assert not (tmp_path / "out").exists()


def test_a_damaged_exported_folder(world, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "stage_1_model_quantized.onnx").write_bytes(b"no model")
    arguments = ["--checkpoint", world / "checkpoint", "--output-dir", tmp_path / "out"]
    done = run(*recalibrating(world, *arguments, directory=folder))
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("Error: DIRECTORY: ")
    assert "stage_1_model_quantized.onnx is not the file that was written" in done.last
    for text in ("[]", "no json", "{}"):
        (folder / "manifest.json").write_text(text)
        done = run("info", folder)
        assert (done.code, done.out) == (2, "")
        assert done.last.startswith("Error: DIRECTORY: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--dtype", "int8"], "--dtype: "),
        (["--checkpoint", "elsewhere"], "--checkpoint: needs an exported DIRECTORY, with manifest.json, got "),
        (["--reference", "nowhere"], "--reference: "),
    ],
)
def test_one_line_errors(world, tmp_path, arguments, line):
    done = run(*recalibrating(world, *arguments, "--output-dir", tmp_path / "out"))
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(f"Error: {line}")
    assert not (tmp_path / "out").exists()
