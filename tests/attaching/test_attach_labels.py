# SPDX-License-Identifier: Apache-2.0
"""Labels in another order than the MainNet's outputs: never certified, from Python or on the command line."""

import json
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_sidenet.attaching.attach import attach
from hf_sidenet.attaching.checkpoint import evaluate_checkpoint, load_checkpoint, recalibrate
from hf_sidenet.calibration.label_checks import ClassOrderError
from hf_sidenet.training.heads import HeadTraining

from ..attached import save_text_mainnet, sentences
from ..cli.test_cli import run, run_json
from ..examples.commands import save_text_mainnet as save_random_mainnet


pytestmark = pytest.mark.medium


HEADS = HeadTraining(max_epochs=1, batch_size=32)
NAMES = ["unfavorable", "favorable"]


@pytest.fixture(scope="module")
def splits():
    return sentences()


@pytest.fixture(scope="module")
def mainnet(tmp_path_factory, splits):
    """A MainNet without class names."""
    folder = tmp_path_factory.mktemp("mainnet") / "classifier"
    save_text_mainnet(folder, splits["train"])
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A MainNet with twelve classes, and texts labeled with its answers: `(folder, texts, labels)`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("many") / "classifier"
    save_random_mainnet(folder, num_labels=12)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = list(dict.fromkeys(text for rows in sentences(train=1200).values() for text in rows["text"][:]))
    with torch.no_grad():
        for weight in (
            model.bert.embeddings.word_embeddings.weight,
            model.bert.pooler.dense.weight,
            model.classifier.weight,
        ):
            weight.normal_()
        logits = model.eval()(**tokenizer(texts, return_tensors="pt", padding=True)).logits
        mean, deviation = logits.mean(0), logits.std(0)
        model.classifier.weight /= deviation[:, None]
        model.classifier.bias.copy_((model.classifier.bias - mean) / deviation)
    model.save_pretrained(folder)
    labels = ((logits - mean) / deviation).argmax(-1).tolist()
    assert len(set(labels)) == 12
    return folder, texts, labels


def named(rows, names, feature=None):
    """The rows with these names for the classes 0 and 1."""
    values = [names[label] for label in rows["label"][:]]
    features = Features({"text": Value("string"), "label": feature or Value("string")})
    return Dataset.from_dict({"text": rows["text"][:], "label": values}, features=features)


def call(mainnet, splits, tmp_path, **kwargs):
    options = {"target": "accuracy_drop<=0.05", "batch_size": 32, "progress": False, "heads": HEADS, **kwargs}
    return attach(
        str(mainnet), splits["train"], splits["validation"], splits.get("test"), cache_dir=tmp_path, **options
    )


def write(folder, splits):
    """csv files, and their options."""
    arguments = []
    for name, rows in splits.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
        arguments += [f"--{name}-file", folder / f"{name}.csv"]
    return arguments


def test_names_need_an_order_that_somebody_gave(mainnet, splits, tmp_path):
    made = {name: named(rows, NAMES) for name, rows in splits.items()}
    with pytest.raises(ValueError, match=r"`labels` must name the MainNet's 2 outputs in order"):
        call(mainnet, made, tmp_path)
    with pytest.raises(ClassOrderError, match=r"labels=\['unfavorable', 'favorable'\]"):
        call(mainnet, made, tmp_path, labels=NAMES[::-1])
    result = call(mainnet, made, tmp_path, labels=NAMES)
    assert result.report["mainnet"]["validation_accuracy"] > 0.8
    assert result.report["classes"] == {
        "names": NAMES,
        "labels": {"unfavorable": 0, "favorable": 1},
        "how": "in the order that was given",
        "trusted": False,
    }
    assert result.model.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize("order", [["favorable", "unfavorable"], NAMES])
def test_the_order_of_a_class_label_is_held_against_the_mainnet(mainnet, splits, tmp_path, order):
    made = {name: named(rows, NAMES, ClassLabel(names=order)) for name, rows in splits.items()}
    if order == NAMES:
        assert call(mainnet, made, tmp_path).report["mainnet"]["validation_accuracy"] > 0.8
        return
    with pytest.raises(ClassOrderError, match="in the order of the data set's ClassLabel: favorable → 0"):
        call(mainnet, made, tmp_path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_split_is_held_against_the_mainnet(mainnet, splits, tmp_path, split):
    """Swapped indices in one of three files."""
    made = dict(splits)
    made[split] = named(splits[split], [1, 0], Value("int64"))
    called = "design" if split == "validation" else split
    with pytest.raises(ClassOrderError, match=f"do not match the MainNet's answers on [0-9]+ {called} rows"):
        call(mainnet, made, tmp_path)


def test_a_name_of_the_mainnet_that_is_wrong(mainnet, splits, tmp_path):
    """The MainNet's class names are swapped: the option corrects them."""
    folder = shutil.copytree(mainnet, tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    made = {name: named(rows, ["bad", "good"]) for name, rows in splits.items()}
    with pytest.raises(ClassOrderError, match=r"mapped by name: .* labels=\['bad', 'good'\]"):
        call(folder, made, tmp_path / "cache")
    result = call(folder, made, tmp_path / "cache", labels=["bad", "good"])
    assert result.model.config.id2label == {0: "bad", 1: "good"}


def test_a_mainnet_that_knows_nothing(mainnet, splits, tmp_path):
    chance = torch.Generator().manual_seed(0)
    made = {}
    for name, rows in splits.items():
        values = torch.randint(0, 2, (len(rows),), generator=chance).tolist()
        made[name] = rows.remove_columns("label").add_column("label", values)
    with pytest.raises(ClassOrderError, match=r"accuracy on the train and design rows is not (clearly )?above the"):
        call(mainnet, made, tmp_path)
    assert call(mainnet, made, tmp_path, trust_labels=True).report["classes"]["trusted"] is True
    # Targets without labels do not depend on them.
    call(mainnet, made, tmp_path, target="disagreement<=0.2")


def test_digits_and_missing_classes(many, tmp_path):
    """As strings, sorted, 10 would come before 2; and class 3 is in no file."""
    folder, texts, labels = many
    kept = [i for i, label in enumerate(labels) if label != 3]

    def rows(part, label):
        return Dataset.from_dict({"text": [texts[i] for i in part], "label": [label(labels[i]) for i in part]})

    parts = {"train": kept[:600], "validation": kept[600:1000]}
    for label in (str, float, "LABEL_{}".format, int):
        made = {name: rows(part, label) for name, part in parts.items()}
        found = call(folder, made, tmp_path, exit_layers=[3], poolings=["mean"]).report
        assert found["mainnet"]["validation_accuracy"] == 1
        assert found["classes"]["how"] in ("by index", "by name")
    made = {name: rows(part, lambda label: str((label + 1) % 12)) for name, part in parts.items()}
    with pytest.raises(ClassOrderError, match="The classes are mapped by index"):
        call(folder, made, tmp_path)
    made = {name: rows(part, lambda label: f"class_{label}") for name, part in parts.items()}
    with pytest.raises(ValueError, match="`labels` must name the MainNet's 12 outputs"):
        call(folder, made, tmp_path)
    # From 1, in a csv file.
    made = {name: rows(part, lambda label: label + 1) for name, part in parts.items()}
    arguments = ["attach", folder, *write(tmp_path, made), "--target", "accuracy_drop<=0.05"]
    done = run(*arguments, "--output-dir", tmp_path / "out", "--cache-dir", tmp_path)
    assert done.code == 2
    assert "'12' in row" in done.last
    assert "--labels must name the MainNet's outputs in order" in done.last


def test_what_was_attached_is_held_to_it_too(mainnet, splits, tmp_path):
    result = call(mainnet, splits, tmp_path / "cache", output_dir=tmp_path / "out")
    assert result.verdict == "attach"
    model, tokenizer = load_checkpoint(tmp_path / "out")
    other = named(splits["validation"], ["good", "bad"])
    for work in (
        lambda **kwargs: evaluate_checkpoint(model, tokenizer, other, progress=False, **kwargs),
        lambda **kwargs: recalibrate(model, tokenizer, other, target="accuracy_drop<=0.05", progress=False, **kwargs),
    ):
        with pytest.raises(ClassOrderError, match=r"labels=\['good', 'bad'\]"):
            work()
        work(labels=["good", "bad"])


def test_commands_say_the_option(mainnet, splits, tmp_path):
    made = {name: named(rows, ["-1", "a b"]) for name, rows in splits.items()}
    files = write(tmp_path, made)
    out = ["--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out", "--target", "accuracy_drop<=0.05"]
    done = run("attach", mainnet, *files, *out)
    assert done.code == 2
    assert done.last.startswith("Error: --labels: must name the MainNet's 2 outputs in order")
    done = run("attach", mainnet, *files, "--labels", "a b", "-1", *out)
    assert done.code == 2
    assert "--labels -1 'a b'. If the labels are right and the MainNet is wrong: --trust-labels." in done.last
    found = run_json("attach", mainnet, "--labels", "-1", "a b", *files, *out)
    assert found["classes"]["labels"] == {"-1": 0, "a b": 1}
    test = ["--test-file", tmp_path / "test.csv"]
    benchmark = ["benchmark", tmp_path / "out", "--precision", "float32", "--batch-size", 32, "--repeats", 1]
    for command in (["evaluate", tmp_path / "out"], benchmark):
        assert run(*command, *test).code == 0
        done = run(*command, *test, "--labels", "a b", "-1")
        assert done.code == 2
        assert "--labels -1 'a b'" in done.last
    rows = ["--validation-file", tmp_path / "validation.csv", "--target", "accuracy_drop<=0.05", "--overwrite"]
    done = run("recalibrate", tmp_path / "out", *rows, "--labels", "a b", "-1")
    assert (done.code, "--labels -1 'a b'" in done.last) == (2, True)
