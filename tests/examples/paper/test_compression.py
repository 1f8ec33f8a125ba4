# SPDX-License-Identifier: Apache-2.0
"""SideNets on compressed MainNets, and the costs of the paper's own models, as typed."""

import csv
import importlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

from ...inference.stages import chained
from ...models import tiny
from ..commands import ROOT, run, save_text_mainnet, sentences


pytestmark = pytest.mark.medium


FOLDER = ROOT / "examples" / "paper"
COUNTS = {"train": 96, "validation": 40, "test": 48}
CLASSES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny finished run and its config."""
    folder = tmp_path_factory.mktemp("paper")
    for seed, (name, count) in enumerate(COUNTS.items()):
        lines = ["text\tlabel", *("\t".join(row) for row in sentences(count, seed))]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    config = {
        "task": "text",
        "group": "joint",
        "seeds": [0],
        "arguments": {
            "model_name_or_path": str(save_text_mainnet(folder / "mainnet", **CLASSES)),
            **{f"{name}_file": str(folder / f"{name}.tsv") for name in COUNTS},
            "exit_layers": [1, 2],
            "freeze_mainnet": "none",
            "num_train_epochs": 10,
            "learning_rate": 1.0e-3,
            "sidenet_learning_rate": 1.0e-2,
            "per_device_train_batch_size": 16,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    run(FOLDER / "train.py", path, "--output_dir", folder / "runs")
    return folder / "runs" / "tiny" / "seed-0", path


@pytest.mark.slow
def test_savings_of_every_version(trained, tmp_path):
    folder, config = trained
    stdout = run(
        FOLDER / "compression.py", folder, "--config", config, "--target_drop", 0.05, "--batch_size", 8,
        "--rows", 24, "--rounds", 1, "--output_dir", tmp_path,
    )  # fmt: skip
    assert "float32: " in stdout
    lines = {line.pop("version"): line for line in read(tmp_path / "compression.csv")}
    assert list(lines) == ["float32", "bfloat16", "int8", "cut"]
    texts = {name: (line.pop("engine"), line.pop("routing")) for name, line in lines.items()}
    assert texts["int8"][0] == "ONNX Runtime"
    assert {routing for _, routing in texts.values()} <= {"pooled", "per_batch", "gates", "all_blocks"}
    lines = {name: {key: float(value) for key, value in line.items()} for name, line in lines.items()}
    first = lines["float32"]
    for line in lines.values():
        assert (line["rows_validation"], line["rows_test"], line["rows_timed"]) == (40, 48, 24)
        assert line["accuracy_drop"] == pytest.approx(first["plain_accuracy"] - line["routed_accuracy"], abs=1e-4)
        assert line["speedup_both"] == pytest.approx(first["ms_plain"] / line["ms_routed"], rel=1e-4)
        assert line["speedup_plain"] * line["speedup_sidenet"] == pytest.approx(line["speedup_both"], rel=1e-4)
        assert line["product_of_parts"] == pytest.approx(line["speedup_plain"] * first["speedup_sidenet"], rel=1e-4)
        assert line["multiplies"] == pytest.approx(line["speedup_both"] / line["product_of_parts"], rel=1e-4)
        assert 0 <= line["threshold"] <= 1
        assert line["same_answers"] >= 0.9
        assert min(line["ms_plain"], line["ms_routed"]) > 0
    assert (first["speedup_plain"], first["multiplies"]) == (1, 1)
    assert first["same_answers"] == 1
    # Blocks 1 and 2 of 4, and of the cut one 1 of 2.
    for name, least in (("float32", 0.25), ("cut", 0.5)):
        leaves = lines[name]["threshold"] < 1
        assert least <= lines[name]["flops_routed"] <= (1 if leaves else 1.01)
    assert [row["table"] for row in read(tmp_path / "provenance.csv")] == ["compression"]


@pytest.mark.slow
def test_versions_of_one_model(trained, tmp_path, script):
    folder, config = trained
    compression = script("compression")
    found = compression.trained(folder, script("experiments").load_experiment(config))
    model, rows = found.model, found.rows
    float32, bfloat16, int8, cut = script("compressed").versions_of(model, rows, found.run.costs, tmp_path)
    batch = dict(rows["test"].collate_fn([rows["test"].dataset[i] for i in range(16)]))
    del batch["labels"]
    with torch.no_grad():
        expected = model(**batch, thresholds=1.0).exit_logits
        exits = {version.name: chained(version.chain, batch) for version in (float32, bfloat16, int8, cut)}
        plain = {version.name: version.plain(0, None, batch)[-1] for version in (float32, bfloat16, int8, cut)}
    torch.testing.assert_close(exits["float32"], expected, rtol=1e-4, atol=1e-4)
    # The second of two SideNets is the last that answers there.
    torch.testing.assert_close(exits["cut"], expected[:, :2], rtol=1e-4, atol=1e-4)
    scale = expected.abs().max()
    for name, smaller in (("bfloat16", 0.1), ("int8", 0.2)):
        difference = (exits[name].float() - expected).abs().max()
        assert 0 < difference < smaller * scale, name
    for name, logits in plain.items():
        torch.testing.assert_close(logits, exits[name][:, -1], rtol=1e-2, atol=1e-2 * float(scale))
    # Collected in the order of the lengths, and put back.
    for version in (float32, int8, cut):
        records = compression.records_of(version, found, "test", 8)
        assert records.labels.tolist() == list(rows["test"].dataset.with_format(None)["labels"])
        torch.testing.assert_close(records.exit_logits[:16], exits[version.name], rtol=1e-2, atol=1e-2 * float(scale))
    assert cut.costs.num_exits == 2
    assert cut.costs.mainnet_flops / float32.costs.mainnet_flops == pytest.approx(0.5, abs=0.02)
    assert cut.costs.fractions("flops") == pytest.approx([0.5, 1], abs=0.03)


def test_the_cheapest_threshold_within_the_drop(script):
    compression = script("compression")
    measurement = importlib.import_module("hf_sidenet.measurement")
    # The SideNet is wrong of one row in ten, at a confidence of 0.6; it is sure of the others.
    sidenet = torch.tensor([[3.0, 0.0]] * 9 + [[0.0, 0.405]])
    mainnet = torch.tensor([[3.0, 0.0]] * 10)
    labels = torch.zeros(10, dtype=torch.long)
    records = measurement.ExitRecords(torch.stack([sidenet, mainnet], dim=1), labels, mainnet)
    costs = measurement.ExitCosts([1, 2], [1.0, 2.0], [1.0, 2.0], 2, 2.0, 2.0, 1, "cpu")
    chain = SimpleNamespace(config=SimpleNamespace(temperatures=[1.0, 1.0]))
    version = script("compressed").Version("float32", "eager", chain, None, None, costs, True)
    assert compression.choose(version, records, 0.0) == 0.6
    assert compression.choose(version, records, 0.1) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--target_drop", "1"], "--target_drop must be in [0, 1), got 1.0"),
    ],
)
def test_bad_arguments(script, monkeypatch, capsys, arguments, message):
    compression = script("compression")
    monkeypatch.setattr("sys.argv", ["compression.py", "run", "--config", "any.yaml", *arguments])
    with pytest.raises(SystemExit):
        compression.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_other_runs_are_refused(trained, tmp_path, script):
    folder, config = trained
    compression, experiments = script("compression"), script("experiments")
    with pytest.raises(ValueError, match=r"RUN_FOLDER must be a finished run of train.py, with a run.json"):
        compression.trained(tmp_path, experiments.load_experiment(config))
    other = shutil.copy(config, tmp_path / "other.yaml")
    with pytest.raises(ValueError, match=r"--config must be the one that .* was trained by, 'tiny', got 'other'"):
        compression.trained(folder, experiments.load_experiment(other))
    changed = shutil.copytree(folder, tmp_path / "changed")
    about = json.loads((changed / "run.json").read_text())
    about["fingerprints"]["test"] = "of other rows"
    (changed / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"the data must be those of .*, but the test rows have changed"):
        compression.trained(changed, experiments.load_experiment(config))
    other.write_text(config.read_text().replace("task: text", "task: image"))
    with pytest.raises(ValueError, match="--config must be an experiment on texts, got 'other' on images"):
        compression.trained(folder, experiments.load_experiment(other))


def test_one_sidenet_leaves_none_for_the_cut_version(tmp_path, script):
    model = tiny.bert_with_sidenets((2,))
    with pytest.raises(ValueError, match=r"must have at least two SideNets, .*, got \[2\]"):
        script("compressed").versions_of(model, {}, None, tmp_path)


def test_full_size_resnet_18(tmp_path):
    stdout = run(FOLDER / "full_size.py", "--models", "resnet-18", "--output_dir", tmp_path)
    assert "resnet-18, gap: 1.4% of the parameters, 32.0% of the FLOPs" in stdout
    flatten, gap = read(tmp_path / "full_size.csv")
    assert (flatten["pooling"], gap["pooling"]) == ("flatten", "gap")
    assert (gap["exit_layer"], gap["num_blocks"], gap["mainnet_params"]) == ("1", "4", "11181642")
    # 64·32 + 32 for the first layer, 2·32 for the BatchNorm, 32·10 + 10 for the second; flattened, 64·8·8 go in.
    assert (gap["sidenet_params"], flatten["sidenet_params"]) == ("2474", str(2474 + (64 * 64 - 64) * 32))
    assert float(gap["overhead"]) == pytest.approx(2474 / 11181642, rel=1e-4)
    assert float(gap["params_at_exit"]) == pytest.approx(0.0143, abs=1e-4)
    assert 0.3 < float(gap["flops_at_exit"]) < float(flatten["flops_at_exit"]) < 0.35
    assert float(gap["mainnet_mflops"]) == float(flatten["mainnet_mflops"]) > 0
    assert 0 < float(gap["milliseconds_at_exit"]) < 1
