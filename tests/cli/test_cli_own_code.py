# SPDX-License-Identifier: Apache-2.0
"""Every command on a MainNet whose code transformers does not have."""

import csv
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hf_sidenet.models import mainnet_code

from ..attached import CLASSES, learn_and_save, sentences
from ..examples.commands import minilm
from ..models.own_code import configuration_toy, modeling_toy, toy, toy_parts
from .test_cli import run, run_json


pytestmark = pytest.mark.medium
WORD = "--trust-remote-code"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own-code")
    tokenizer = AutoTokenizer.from_pretrained(minilm(), model_input_names=["input_ids", "attention_mask"])
    rows = sentences()
    model = toy(vocab_size=len(tokenizer), num_labels=2, id2label=dict(enumerate(CLASSES)))
    inputs = tokenizer(rows["train"]["text"][:], padding=True, return_tensors="pt")
    learn_and_save(model, inputs, torch.tensor(rows["train"]["label"][:]), tokenizer, folder / "mainnet")
    for split, part in rows.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((row["text"], CLASSES[row["label"]]) for row in part)
    return folder


@pytest.fixture(scope="module")
def attached(world):
    found = run_json(*attaching(world), WORD)
    assert found["verdict"] == "attach"
    return world / "checkpoint"


def attaching(world):
    files = [f"--{split}-file={world / split}.csv" for split in ("train", "validation", "test")]
    return [
        "attach",
        world / "mainnet",
        *files,
        "--target",
        "accuracy_drop<=0.05",
        "--output-dir",
        world / "checkpoint",
    ]


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    monkeypatch.setattr(mainnet_code, "_RUN", {})


def test_attach_needs_the_word(world, tmp_path):
    done = run(*attaching(world)[:-1], tmp_path / "other")
    assert done.code == 2
    assert "--trust-remote-code" in done.last
    assert not (tmp_path / "other").exists()


def test_the_code_is_in_the_checkpoint(attached):
    for module in (configuration_toy, modeling_toy, toy_parts):
        path = Path(module.__file__)
        assert (attached / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        ["info"],
        ["evaluate", "--test-file", "test.csv"],
        [
            "recalibrate",
            "--validation-file",
            "validation.csv",
            "--target",
            "accuracy_drop<=0.1",
            "--output-dir",
            "new",
        ],
        ["export", "--output-dir", "exported"],
        ["benchmark", "--test-file", "test.csv", "--rows", 16, "--repeats", 1, "--precision", "float32"],
    ],
    ids=lambda command: command[0],
)
def test_commands_on_the_checkpoint(attached, command, world, tmp_path, monkeypatch):
    name, *options = command
    options = [world / each if str(each).endswith(".csv") else each for each in options]
    monkeypatch.chdir(tmp_path)
    done = run(name, attached, *options)
    assert done.code == 2
    assert "--trust-remote-code" in done.last
    assert "modeling_toy.py" in done.last
    assert not any(tmp_path.glob("[ne]*"))
    found = run_json(name, attached, *options, WORD)
    assert found["checkpoint"] == str(attached)


def test_push_lists_the_hashes(attached):
    found = run_json("push", attached, "--dry-run")
    for module in (configuration_toy, modeling_toy, toy_parts):
        path = Path(module.__file__)
        assert found["code"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["errors"] == found["changed_code"] == []
    # What a checkpoint brings is not run for a check.
    assert mainnet_code._RUN == {}
    assert any("not compared with the weights" in each for each in found["warnings"])
    trusted = run_json("push", attached, "--dry-run", WORD)
    assert trusted["errors"] == []
    assert not any("not compared" in each for each in trusted["warnings"])


def test_push_refuses_changed_code(attached, tmp_path):
    copy = shutil.copytree(attached, tmp_path / "copy")
    with (copy / "toy_parts.py").open("a") as file:
        file.write("\nimport einops\n")
    done = run("push", copy, "--dry-run")
    assert done.code == 2
    assert "toy_parts.py is code of the MainNet that was changed" in done.last
