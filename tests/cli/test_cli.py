# SPDX-License-Identifier: Apache-2.0
"""The command line: printed output, written files and exit codes."""

import io
import json
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViTImageProcessor

from hf_sidenet import cli

from ..examples.commands import BAD, GOOD, OTHER, save_pictures, save_text_mainnet
from ..models import tiny


WORDS = f"{GOOD} {BAD} {OTHER} one more old big small red long short".split()
FIGURES = ["accuracy_cost.png", "confidences.png", "exit_shares.png", "reliability.png"]


def run(*arguments):
    """Run a command; return exit code, standard output, standard error and its last line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    lines = err.getvalue().splitlines()
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), last=lines[-1] if lines else "")


def run_json(*arguments, code=0):
    """Run a command; return the strict JSON document on standard output."""
    done = run(*arguments, "--json")
    assert done.code == code, done.err[-2000:]
    return json.loads(done.out, parse_constant=lambda name: pytest.fail(name))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A MainNet whose answers are the labels, and three tsv files without repeated rows."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    mainnet = folder / "mainnet"
    save_text_mainnet(mainnet, **names)
    tokenizer = AutoTokenizer.from_pretrained(mainnet)
    model = AutoModelForSequenceClassification.from_pretrained(mainnet).eval()
    chance = random.Random(0)
    texts = list(dict.fromkeys(" ".join(chance.choices(WORDS, k=chance.randint(5, 12))) for _ in range(1600)))
    with torch.no_grad():
        for weight in (
            model.bert.embeddings.word_embeddings.weight,
            model.bert.pooler.dense.weight,
            model.classifier.weight,
        ):
            weight.normal_()
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
        # Half of the answers are "good".
        middle = (logits[:, 1] - logits[:, 0]).median()
        model.classifier.bias[0] += middle
    model.save_pretrained(mainnet)
    good = (logits[:, 1] - logits[:, 0] > middle).tolist()
    lines = [f"{text}\t{'good' if label else 'bad'}" for text, label in zip(texts, good, strict=True)]
    for split, part in {"train": lines[:700], "validation": lines[700:1300], "test": lines[1300:]}.items():
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *part]) + "\n")
    (folder / "bare.tsv").write_text("\n".join(lines[700:1300]) + "\n")
    (folder / "few.tsv").write_text("\n".join(["text\tlabel", *lines[700:740]]) + "\n")
    return folder


def attaching(world, validation="validation.tsv"):
    files = ["--train-file", world / "train.tsv", "--validation-file", world / validation]
    return ["attach", world / "mainnet", *files, "--cache-dir", world / "cache"]


@pytest.fixture(scope="module")
def attached(world):
    """A checkpoint, and what `--json` printed."""
    folder = world / "attached"
    arguments = ["--target", "accuracy_drop<=0.05", "--test-file", world / "test.tsv", "--output-dir", folder]
    return folder, run_json(*attaching(world), *arguments)


@pytest.mark.medium
def test_attach_writes_the_folder(attached):
    from hf_sidenet.attaching.checkpoint import load_checkpoint

    folder, found = attached
    assert found["verdict"] == "attach"
    assert found["output_dir"] == str(folder)
    assert found["settings"]["target"] == ["accuracy_drop<=0.05"]
    model, _ = load_checkpoint(folder)
    assert model.config.thresholds == found["thresholds"]
    assert model.config.exit_layers == found["exit_layers"]
    assert found["evaluation"]["num_rows"] == found["data"]["test"]["num_rows"]
    assert found["evaluation"]["routed"]["flops"]["value"] < 0.8
    assert found["evaluation"]["routed"]["accuracy_drop"]["value"] < 0.08
    assert json.loads((folder / "report.json").read_text())["calibration"] == found["calibration"]


@pytest.mark.medium
def test_attach_says_what_it_found(world, tmp_path):
    """A file without a header, other settings, and no test rows."""
    arguments = ["--target", "disagreement<=0.05", "--confidence-level", 0.9, "--exit-layers", "1,3"]
    bare = ["attach", world / "mainnet", "--train-file", world / "bare-train.tsv", "--cache-dir", world / "cache"]
    lines = (world / "train.tsv").read_text().splitlines()[1:]
    (world / "bare-train.tsv").write_text("\n".join(lines) + "\n")
    bare += [
        "--validation-file",
        world / "bare.tsv",
        "--no-header",
        "--poolings",
        "mean",
        "--max-exits",
        1,
        "--no-chain",
    ]
    done = run(*bare, *arguments, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err[-2000:]
    lines = done.out.splitlines()
    assert lines[0] == "Verdict: attach (the cheapest certified threshold)."
    assert lines[2].split() == ["exit", "after", "block", "pooling", "θ", "rows", "%"]
    assert lines[3].split()[2] in ("1", "3")
    assert "with probability ≥ 0.9 over the 450 certification rows" in done.out
    assert "answers differently is ≤ 0.05" in done.out
    assert "parameters 0." in done.out
    assert "FLOPs 0." in done.out
    assert "milliseconds " in done.out
    assert "Seconds: loading" in done.out
    assert lines[-1] == f"Written to {tmp_path / 'out'}"
    assert "test rows" not in done.out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pooling"] == ["mean"]
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert (settings["chain"], settings["ensemble"]) == (False, False)


def test_test_accuracy_stands_beside_the_mainnets(attached):
    from hf_sidenet.cli.texts import attach_text

    lines = attach_text(attached[1]).splitlines()
    alone = next(line for line in lines if line.startswith("MainNet alone"))
    routed = next(line for line in lines if line.startswith("routed"))
    assert "100.00 [100.00, 100.00]" in alone
    value = attached[1]["evaluation"]["routed"]["accuracy"]["value"]
    assert f"{100 * value:.2f} [" in routed


@pytest.mark.medium
def test_joint_training_prints_json_only(world, tmp_path):
    arguments = ["--tune", "joint", "--joint-epochs", 1, "--reference", "tuned", "--target", "flops<=0.9"]
    found = run_json(*attaching(world), *arguments, "--exit-layers", "2", "--output-dir", tmp_path / "out")
    assert found["settings"]["joint"]["num_epochs"] == 1
    assert found["settings"]["reference"] == "tuned"
    assert found["exit_layers"] == [2]


@pytest.mark.medium
def test_do_not_attach(world, tmp_path):
    arguments = ["--target", "accuracy_drop<=0.05", "--target", "flops<=0.01", "--output-dir", tmp_path / "out"]
    done = run(*attaching(world), *arguments)
    assert done.code == 3, done.err[-2000:]
    assert done.out.startswith("Verdict: do not attach: no certified threshold is within the budget")
    assert "Best placement: " in done.out
    assert "Points of θ looked at on the certification rows" in done.out
    assert "Cost of an answer" in done.out
    assert done.out.rstrip().endswith("No checkpoint was written.")
    assert not list(tmp_path.iterdir())


def test_too_few_rows(world, tmp_path):
    done = run(*attaching(world, "few.tsv"), "--target", "accuracy_drop<=0.05", "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    # 0.95 ** 58 > 0.05 > 0.95 ** 59, and 59 / 0.75 = 78.7.
    assert done.last.startswith("Error: --validation-file: must have about 79 rows or more. ")
    assert "needs at least 59 certification rows" in done.last
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_evaluate(world, attached, tmp_path):
    folder, found = attached
    arguments = ["evaluate", folder, "--test-file", world / "test.tsv"]
    evaluation = run_json(*arguments, "--output-dir", tmp_path / "figures", "--reference", world / "mainnet")
    assert evaluation["evaluation"]["routed"]["accuracy"] == found["evaluation"]["routed"]["accuracy"]
    assert evaluation["evaluation"]["reference_accuracy"]["value"] == 1
    files = contents(tmp_path / "figures")
    assert sorted(map(str, files)) == sorted([*FIGURES, "evaluation.json"])
    written = json.loads((tmp_path / "figures" / "evaluation.json").read_text())
    assert set(written.pop("files")) == set(map(str, files))
    assert written == evaluation
    done = run(*arguments, "--output-dir", tmp_path / "figures")
    assert done.code == 2
    assert done.last.startswith("Error: --output-dir: must be new or empty unless --overwrite is given")
    assert contents(tmp_path / "figures") == files


def test_evaluate_other_columns(attached, tmp_path):
    rows = [{"words": "the old film is long", "truth": "good"}, {"words": "a short red story", "truth": "bad"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({**row, "n": 1}) + "\n" for row in rows))
    columns = ["--text-column", "words", "--label-column", "truth"]
    done = run("evaluate", attached[0], "--test-file", tmp_path / "rows.jsonl", *columns)
    assert done.code == 0, done.err[-2000:]
    assert "compared with the MainNet inside" in done.out
    assert "| routed |" in done.out


def test_recalibrate(world, attached, tmp_path):
    folder, found = attached
    before = contents(folder)
    arguments = ["recalibrate", folder, "--validation-file", world / "validation.tsv", "--target", "flops<=0.9"]
    new = run_json(*arguments, "--train-file", world / "train.tsv", "--output-dir", tmp_path / "new")
    assert contents(folder) == before
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["evaluation"] is None
    assert "test" not in report["data"]
    assert report["settings"]["target"] == ["flops<=0.9"]
    assert report["calibration"] == new["calibration"] != found["calibration"]
    assert report["seconds"] == json.loads((folder / "report.json").read_text())["seconds"]
    assert run_json("info", tmp_path / "new")["exits"][0]["threshold"] == new["thresholds"][0]


@pytest.mark.medium
def test_recalibrate_in_place(world, attached, tmp_path, caplog):
    folder = shutil.copytree(attached[0], tmp_path / "copy")
    arguments = ["recalibrate", folder, "--validation-file", world / "validation.tsv"]
    arguments += ["--target", "accuracy_drop<=0.1"]
    done = run(*arguments)
    assert (done.code, done.last) == (
        2,
        "Error: --output-dir: must be given, or --overwrite to change DIRECTORY itself.",
    )
    theirs = {".git/HEAD": "main", "LICENSE": "mine", "notes/today.md": "mine", "README.md": "By hand."}
    for name, text in theirs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    done = run(*arguments, "--overwrite")
    assert done.code == 0, done.err[-2000:]
    assert {name: (folder / name).read_text() for name in theirs} == theirs
    # Shown on standard error if there is no other handler.
    assert "README.md in" in caplog.text
    assert "With probability" in (folder / "README.new.md").read_text()
    assert done.out.startswith("Verdict: new θ (the cheapest certified threshold).")
    assert "Caution: these rows have now seen 2 different calibrations." in done.out
    assert json.loads((folder / "config.json").read_text())["calibration"]["num_calibrations"] == 2
    assert json.loads((folder / "report.json").read_text())["evaluation"] is None


def test_recalibrate_finds_nothing(world, attached):
    folder, _ = attached
    before = contents(folder)
    target = ["--target", "accuracy_drop<=0.05,flops<=0.01"]
    arguments = ["recalibrate", folder, "--validation-file", world / "validation.tsv", *target, "--overwrite"]
    found = run_json(*arguments, code=3)
    assert (found["verdict"], found["output_dir"]) == ("do not attach", None)
    assert contents(folder) == before
    arguments[3] = world / "few.tsv"
    done = run(*arguments)
    assert done.code == 2
    assert done.last.startswith("Error: --validation-file: must have about 79 rows")


def test_info(attached):
    folder, found = attached
    done = run("info", folder)
    assert done.code == 0
    assert "bert.encoder.layer.0" in done.out or "bert.encoder.layer.1" in done.out
    assert "the accuracy drop is ≤ 0.05" in done.out
    info = run_json("info", folder)
    assert [each["exit_layer"] for each in info["exits"]] == found["exit_layers"]
    assert [each["threshold"] for each in info["exits"]] == found["thresholds"]
    # 32 · 32 + 32, BatchNorm's 2 · 32, 32 · 2 + 2.
    assert info["exits"][-1]["num_params"] == 1186
    assert info["calibration"] == found["calibration"]


def test_info_without_evidence(tmp_path):
    tiny.bert_with_sidenets((1, 3)).save_pretrained(tmp_path / "plain")
    done = run("info", tmp_path / "plain")
    assert done.code == 0, done.err[-2000:]
    assert done.out.rstrip().endswith("θ has no evidence behind it, and no row exits early at θ ≥ 1.")


@pytest.mark.medium
def test_images(tmp_path):
    """An untrained MainNet: SideNets that learn the shades correct its errors, and the text must say so."""
    names = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    tiny.resnet(num_labels=2, **names).save_pretrained(tmp_path / "mainnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "mainnet")
    for seed, split in enumerate(("train", "validation", "test")):
        save_pictures(tmp_path / split, 60, seed)
    files = [text for split in ("train", "validation", "test") for text in (f"--{split}-file", tmp_path / split)]
    arguments = ["--target", "accuracy_drop<=0.05", "--distillation-weight", 0, "--batch-size", 16]
    arguments += ["--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out", "--trust-labels"]
    found = run_json("attach", tmp_path / "mainnet", *files, *arguments)
    assert found["evaluation"]["routed"]["accuracy_drop"]["value"] < 0
    again = run_json("evaluate", tmp_path / "out", "--test-file", tmp_path / "test", "--trust-labels")
    assert again["evaluation"]["routed"]["accuracy"] == found["evaluation"]["routed"]["accuracy"]


def test_paths_of_what_is_read_are_not_replaced(world, attached):
    folder, _ = attached
    for arguments in (
        [*attaching(world), "--output-dir", world, "--overwrite"],
        [*attaching(world), "--output-dir", world / "mainnet", "--overwrite"],
        ["evaluate", folder, "--test-file", world / "test.tsv", "--output-dir", folder, "--overwrite"],
    ):
        done = run(*arguments)
        assert done.code == 2
        assert done.last.startswith("Error: --output-dir: must not be or contain ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("attach M T V -o", "No such option"),
        ("attach M T V", "--output-dir: must be given."),
        ("attach", "MAINNET: must be given."),
        ("atach", "No such command"),
        ("attach M T V O --tune most", "--tune: "),
        ("attach M T V O --batch-size 0", "--batch-size: "),
        ("attach M T V O --exit-layers 1,two", "--exit-layers: must be whole numbers, got 'two'."),
        ("attach M T V O --exit-layers 9", "--exit-layers: "),
        ("attach M T V O --poolings middle", "--poolings: "),
        ("attach M T V O --confidence-level 1", "--confidence-level: must be between 0 and 1, both excluded, got 1."),
        ("attach M T V O --target accuracy<=0.01", "--target: must limit one of accuracy_drop"),
        ("attach M T V O --joint-epochs 2", "--joint-epochs: needs --tune joint, got --tune heads."),
        ("attach M T V O --label-column stars", "--label-column: must be among the columns ['text', 'label']"),
        ("attach M T V O --text-column words", "--text-column: must be among the columns ['text', 'label']"),
        ("attach M T V O --max-length 0", "--max-length: "),
        ("attach M T V O --dataset-config sst2", "--dataset-config: must be used with --dataset-name"),
        ("attach M T V O --dataset-name glue", "--dataset-name: must not be given together with --train-file"),
        ("attach M --train-file nowhere.tsv V O", "--train-file: must be a file or a folder of pictures"),
        ("attach M O", "--train-file: must be given, or --dataset-name."),
        ("attach M T O", "--validation-file: must have validation rows"),
        ("attach M --train-file TRAIN --validation-file TRAIN O", "--validation-file: must be rows that were not"),
        ("attach nowhere T V O", "MAINNET: "),
        ("attach A T V O", "MAINNET: must be a plain classifier, but "),
        ("evaluate A", "--test-file: must be given, or --dataset-name."),
        ("evaluate M --test-file TRAIN", "DIRECTORY: this is the checkpoint of a plain 'bert' model"),
        ("evaluate A --test-file TRAIN --reference nowhere", "--reference: "),
        ("info nowhere", "DIRECTORY: "),
        ("info M", "DIRECTORY: this is the checkpoint of a plain 'bert' model"),
        ("recalibrate A V --output-dir N", "--target: must be given."),
    ],
)
def test_one_line_errors(world, attached, tmp_path, arguments, line):
    short = {
        "M": [world / "mainnet"],
        "A": [attached[0]],
        "T": ["--train-file", world / "train.tsv"],
        "V": ["--validation-file", world / "validation.tsv"],
        "O": ["--output-dir", tmp_path / "out", "--cache-dir", world / "cache"],
        "N": [tmp_path / "out"],
        "TRAIN": [world / "train.tsv"],
    }
    done = run(*(each for word in arguments.split() for each in short.get(word, [word])))
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(f"Error: {line}")
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_traceback(world, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("it broke")

    monkeypatch.setattr("hf_sidenet.attaching.checkpoint.load_checkpoint", fail)
    arguments = ["evaluate", world, "--test-file", world / "test.tsv"]
    done = run(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: RuntimeError: it broke (Set HF_SIDENET_TRACEBACK=1 for a traceback.)\n"
    monkeypatch.setenv("HF_SIDENET_TRACEBACK", "1")
    assert "Traceback" in run(*arguments).err


def test_attach_says_what_rows_and_labels_were_taken_for(world, attached):
    """The MainNet's accuracy on certification rows and losses per class, with and without test rows."""
    from hf_sidenet.cli.texts import attach_text

    found = attached[1]
    assert found["classes"] == {
        "names": ["bad", "good"],
        "labels": {"bad": 0, "good": 1},
        "how": "by name",
        "trusted": False,
    }
    lines = (world / "validation.tsv").read_text().splitlines()[1:]
    counts = [sum(line.endswith(f"\t{name}") for line in lines) for name in ("bad", "good")]
    validation = found["data"]["validation"]
    assert validation["rows_per_class"] == counts
    assert validation["columns"] == {"inputs": ["text"], "label": "label", "unused": []}
    assert found["certification"]["reference_accuracy"] == 1
    recalls = found["certification"]["recalls"]
    assert [each["name"] for each in recalls] == ["bad", "good"]
    assert sum(each["num_rows"] for each in recalls) == found["certification"]["num_rows"] == 450
    assert [each["reference"]["value"] for each in recalls] == [1, 1]
    assert len(found["evaluation"]["recalls"]) == 2
    text = attach_text(found)
    routed = found["calibration"]["certification"]["accuracy"]
    assert f"Accuracy there: {100 * routed:.2f} %, the MainNet's 100.00 %." in text
    assert (
        "Rows are read from 'text', their classes from 'label'. Classes are mapped by name: bad → 0, good → 1." in text
    )
    table = text[text.index("rows of class") :].splitlines()
    assert table[0].split() == ["rows", "of", "class", "train", "validation", "test"]
    assert [line.split()[2] for line in table[1:3]] == [str(count) for count in counts]
    assert text.count("Recall per class, with 95 % intervals") == 2
    harmed = {**recalls[1], "loses": True}
    assert "Warning: the class 'good' loses: " in attach_text(
        {**found, "certification": {**found["certification"], "recalls": [harmed]}, "evaluation": None}
    )


@pytest.mark.medium
def test_the_mainnets_accuracy_is_said_where_nothing_is_attached(world, tmp_path):
    arguments = ["--target", "flops<=0.01", "--exit-layers", 1, 2, "--output-dir", tmp_path / "out"]
    done = run(*attaching(world), *arguments)
    assert done.code == 3
    assert "The MainNet's accuracy on the certification rows: 100.00 %." in done.out
    assert "Classes are mapped by name" in done.out
