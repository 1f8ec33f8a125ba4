# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments as typed, on tiny data: trained, killed and continued, recorded."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_sidenet import ExitRecords

from ..commands import ROOT, run, save_text_mainnet, sentences


pytestmark = pytest.mark.medium


FOLDER = ROOT / "examples" / "paper"
TRAIN = FOLDER / "train.py"
CONFIGS = sorted((FOLDER / "configs").glob("*/*.yaml"))
# Files that are only the base of others.
SHARED = {"sst2", "cifar10", "paper-sst2"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data, a pretrained encoder and the files of some experiments, on top of the real ones."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "sst2").mkdir()
    for name, count in (("train", 64), ("dev", 24), ("test", 24)):
        lines = [f"{text}\t{int(label == 'good')}" for text, label in sentences(count, seed=count)]
        (folder / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    save_text_mainnet(folder / "bert", num_hidden_layers=3)
    experiments = {
        "sst2-mainnet": {},
        "sst2-distilled-1-2-3": {"exit_layers": [1, 2]},
        "sst2-frozen": {"exit_layers": [1, 2]},
        "sst2-cut-3": {"config_overrides": '{"num_hidden_layers": 2}'},
    }
    for name, arguments in experiments.items():
        base = str(FOLDER / "configs" / "cpu" / f"{name}.yaml")
        small = {"resplit": [56, 28, 28], "num_train_epochs": 2, "per_device_train_batch_size": 8, "bf16": False}
        content = {"base": base, "seeds": [3], "arguments": small | arguments}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def environment(files):
    return {"SIDENET_DATA": str(files), "SIDENET_BERT": str(files / "bert")}


@pytest.fixture(scope="module")
def trained(files):
    """Folder of the finished runs."""
    names = ["sst2-mainnet", "sst2-distilled-1-2-3", "sst2-frozen", "sst2-cut-3"]
    run(TRAIN, *(files / f"{name}.yaml" for name in names), "--output_dir", files / "out", **environment(files))
    return files / "out"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_configuration_is_one_that_its_script_takes(script, path, monkeypatch, tmp_path):
    monkeypatch.setenv("SIDENET_DATA", "data")
    monkeypatch.setenv("SIDENET_BERT", "bert")
    experiments = script("experiments")
    if path.stem in SHARED:
        assert any(f"base: {path.name}" in other.read_text() for other in path.parent.glob("*.yaml"))
        return
    experiment = experiments.load_experiment(path)
    # So that a machine without a GPU takes bfloat16.
    words = [*experiment.words(0, tmp_path), "--use_cpu", "True"]
    mainnet_args, data_args, sidenet_args, training_args = script("rows").parse(words, experiment.modality)
    assert (mainnet_args.model_name_or_path is None) != (mainnet_args.model_type is None)
    assert data_args.split_seed == 0
    assert (sidenet_args.exit_layers is None) == (experiment.group in ("without", "cut"))
    assert training_args.num_train_epochs >= 1
    if experiment.heads_of is not None:
        assert (path.parent / f"{experiment.heads_of}.yaml").exists()


@pytest.mark.slow
def test_a_run_leaves_records_costs_and_where_they_come_from(trained):
    folder = trained / "sst2-distilled-1-2-3" / "seed-3"
    records = ExitRecords.load(folder / "test_records.safetensors")
    assert (len(records), records.num_exits) == (28, 3)
    about = json.loads((folder / "run.json").read_text())
    assert about["rows"] == {"train": 56, "validation": 28, "test": 28}
    assert about["seed"] == 3
    assert about["commit"]
    assert len(set(about["fingerprints"].values())) == 3
    flops = about["costs"]["flops"]
    assert flops == sorted(flops)
    assert not list(folder.glob("checkpoint-*"))
    plain = load_file(trained / "sst2-mainnet" / "seed-3" / "test_logits.safetensors")
    assert torch.equal(plain["labels"], records.labels)


def test_frozen_sidenets_keep_the_logits_of_their_mainnet(trained):
    frozen = ExitRecords.load(trained / "sst2-frozen" / "seed-3" / "test_records.safetensors")
    plain = load_file(trained / "sst2-mainnet" / "seed-3" / "test_logits.safetensors")
    assert torch.allclose(frozen.mainnet_logits, plain["logits"], atol=1e-5)
    assert not torch.allclose(frozen.exit_logits[:, 0], plain["logits"], atol=1e-2)


def test_a_cut_mainnet_has_the_blocks_that_stay(trained, script):
    cut = script("cut_model").load_cut(trained / "sst2-cut-3" / "seed-3")
    assert len(cut.encoder.encoder.layer) == 2
    costs = [
        json.loads((trained / name / "seed-3" / "run.json").read_text())["costs"]
        for name in ("sst2-cut-3", "sst2-mainnet")
    ]
    assert costs[0]["mainnet_flops"] < 0.7 * costs[1]["mainnet_flops"]
    plain = load_file(trained / "sst2-cut-3" / "seed-3" / "test_logits.safetensors")
    assert plain["logits"].shape == (28, 2)


def test_a_finished_run_stays_and_other_arguments_are_refused(trained, files):
    path = trained / "sst2-mainnet" / "seed-3" / "run.json"
    before = path.stat().st_mtime_ns
    out = run(TRAIN, files / "sst2-mainnet.yaml", "--output_dir", trained, **environment(files))
    assert "done" in out
    assert path.stat().st_mtime_ns == before
    other = files / "other" / "sst2-mainnet.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump({"base": str(files / "sst2-mainnet.yaml"), "arguments": {"learning_rate": 1.0}}))
    error = run(TRAIN, other, "--output_dir", trained, code=1, **environment(files))
    assert "must be a run of the same experiment" in error
    assert "1.0" in error


def test_a_killed_run_goes_on_to_the_same_logits(trained, files, tmp_path):
    name = "sst2-distilled-1-2-3"
    command = [sys.executable, str(TRAIN), str(files / f"{name}.yaml"), "--output_dir", str(tmp_path)]
    folder = tmp_path / name / "seed-3"
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment(files)}, start_new_session=True, stderr=subprocess.DEVNULL
    )
    # Written last.
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "run.json").exists()
    out = run(TRAIN, files / f"{name}.yaml", "--output_dir", tmp_path, **environment(files))
    assert "continues from checkpoint-" in out
    again = ExitRecords.load(folder / "test_records.safetensors")
    whole = ExitRecords.load(trained / name / "seed-3" / "test_records.safetensors")
    assert torch.allclose(again.exit_logits, whole.exit_logits, atol=1e-5)


def test_frozen_sidenets_need_the_run_of_their_mainnet(files, tmp_path):
    error = run(TRAIN, files / "sst2-frozen.yaml", "--output_dir", tmp_path, code=1, **environment(files))
    assert "needs the finished run" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "text", "group": "joint", "seeds": [0], "layers": 1}, "fields must be among"),
        ({"task": "text", "seeds": [0]}, r"\['group'\] must be given"),
        ({"task": "audio", "group": "joint", "seeds": [0]}, "`task` must be one of"),
        ({"task": "text", "group": "joint", "seeds": []}, "`seeds` must be a list"),
        ({"task": "text", "group": "joint", "seeds": [-1]}, "`seeds` must be a list"),
        (["text"], "must hold fields"),
    ],
)
def test_configurations_are_checked(script, tmp_path, content, message):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        script("experiments").load_experiment(path)
    with pytest.raises(ValueError, match="there must be a file"):
        script("experiments").load_experiment(tmp_path / "none.yaml")


def test_an_environment_variable_that_is_missing_is_named(script, tmp_path, monkeypatch):
    monkeypatch.delenv("SIDENET_BERT", raising=False)
    experiment = script("experiments").load_experiment(FOLDER / "configs" / "cpu" / "sst2-mainnet.yaml")
    with pytest.raises(ValueError, match="SIDENET_BERT, which is not set"):
        experiment.words(0, tmp_path)
