# SPDX-License-Identifier: Apache-2.0
"""The image script, as a user types it, on tiny pictures."""

import importlib
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, TimmWrapperConfig, TimmWrapperForImageClassification

from .commands import ROOT, run, save_pictures


FOLDER = ROOT / "examples" / "image_classification"
SCRIPT = FOLDER / "run_image_classification.py"
TINY = {"layer_type": "basic", "depths": [1, 1, 1], "hidden_sizes": [8, 8, 16], "embedding_size": 8}


@pytest.fixture
def data(monkeypatch):
    """The module image_data, which the script imports from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("image_data")


def folders(root):
    """--train_dir, --validation_dir and --test_dir."""
    arguments = []
    for seed, (name, count) in enumerate((("train", 24), ("validation", 12), ("test", 16))):
        arguments += [f"--{name}_dir", save_pictures(root / "shades" / name, count, seed)]
    return arguments


def settings(folder):
    return [
        "--per_device_train_batch_size", 16, "--per_device_eval_batch_size", 16, "--output_dir", folder,
        "--report_to", "none", "--do_train", "--do_eval",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_mainnet_from_nothing_then_a_sidenet_on_it(tmp_path):
    rows = folders(tmp_path)
    mainnet = tmp_path / "mainnet"
    stdout = run(
        SCRIPT, "--model_type", "resnet", "--config_overrides", json.dumps(TINY), "--image_size", 32, *rows,
        "--num_train_epochs", 6, "--learning_rate", 0.01, *settings(mainnet),
    )  # fmt: skip
    assert "θ" not in stdout
    accuracy = json.loads((mainnet / "test_results.json").read_text())["test_accuracy"]
    assert accuracy > 0.8
    plain = AutoModelForImageClassification.from_pretrained(mainnet)
    assert plain.config.id2label == {0: "dark", 1: "light"}

    out = tmp_path / "out"
    stdout = run(
        SCRIPT, "--model_name_or_path", mainnet, *rows, "--exit_layers", 1, 2, "--thresholds", 0.0, 0.6, 0.8,
        "--num_train_epochs", 2, "--learning_rate", 0.01, *settings(out),
    )  # fmt: skip
    assert re.search(r"θ = \S+, chosen on 24 validation rows .* on 32 test rows", stdout)
    assert f"| MainNet alone | {100 * accuracy:.2f} |" in stdout
    assert len([line for line in stdout.splitlines() if re.match(r"\| (0|0\.6|0\.8|1) \|", line)]) == 4
    for name in ("report.md", "sweep.csv", "accuracy_cost.png", "preprocessor_config.json", "modeling_sidenet.py"):
        assert (out / name).stat().st_size > 0, name
    assert "image-classification" in (out / "README.md").read_text()
    weights = load_file(out / "model.safetensors")
    for name, value in plain.state_dict().items():
        assert torch.equal(weights[f"mainnet.{name}"], value), name


@pytest.mark.medium
def test_timm_jointly(tmp_path):
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    mainnet = tmp_path / "timm"
    # As timm's own repositories on the Hub: no preprocessor_config.json.
    pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = TimmWrapperConfig(
        architecture="resnet10t", model_args={"channels": [8, 8, 16, 16]}, num_labels=2, pretrained_cfg=pretrained_cfg
    )
    TimmWrapperForImageClassification(config).save_pretrained(mainnet)
    out = tmp_path / "out"
    stdout = run(
        SCRIPT, "--model_name_or_path", mainnet, *folders(tmp_path)[:2], "--exit_layers", 1,
        "--freeze_mainnet", "none", "--distillation_weight", 0.5, "--num_train_epochs", 1, *settings(out),
    )  # fmt: skip
    # Without a test split, validation rows are reported, and nothing is chosen on them.
    assert "no others to choose θ on" in stdout
    assert json.loads((out / "config.json").read_text())["thresholds"] == [1.0]


def test_pictures_from_parquet_are_those_of_the_folder(data, tmp_path):
    from_folder = data.load_images(data.DataArguments(train_dir=str(save_pictures(tmp_path / "p", 10))), seed=0)
    from_folder["train"].to_parquet(tmp_path / "train.parquet")
    from_file = data.load_images(data.DataArguments(train_file=str(tmp_path / "train.parquet")), seed=0)
    assert {name: len(rows) for name, rows in from_folder.items()} == {"train": 18, "validation": 2}
    assert len(from_file["train"]) + len(from_file["validation"]) == 18
    assert from_file["train"].features["label"].names == ["dark", "light"]


def test_augmentation_is_for_training_only(data, tmp_path):
    arguments = data.DataArguments(train_dir=str(save_pictures(tmp_path / "p", 10)), image_size=32)
    processor = data.load_processor(data.MainNetArguments(model_type="resnet"), 32)
    rows = data.load_images(arguments, seed=0)["train"]
    torch.manual_seed(0)
    plain = data.prepare(rows, arguments, processor, augment=False)
    assert torch.equal(plain[0]["pixel_values"], plain[0]["pixel_values"])
    moved = data.prepare(rows, arguments, processor, augment=True)
    assert not torch.equal(moved[0]["pixel_values"], moved[0]["pixel_values"])
    batch = data.collate([moved[0], moved[1]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["labels"].tolist() == [rows[0]["label"], rows[1]["label"]]


def test_impossible_data(data, tmp_path):
    with pytest.raises(ValueError, match="give --dataset_name, --train_dir, or files of one kind"):
        data.load_images(data.DataArguments(train_file="rows.csv"), seed=0)
    pictures = str(save_pictures(tmp_path / "p", 3))
    with pytest.raises(ValueError, match=r"must have training rows, got the splits \['test'\]"):
        data.load_images(data.DataArguments(test_dir=pictures), seed=0)
    with pytest.raises(ValueError, match=r"\['shade'\] must be columns of the train rows"):
        data.load_images(data.DataArguments(train_dir=pictures, label_column="shade"), seed=0)
    with pytest.raises(ValueError, match="`image_size` must be given with `model_type`"):
        data.load_processor(data.MainNetArguments(model_type="resnet"), None)
