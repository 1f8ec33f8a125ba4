# SPDX-License-Identifier: Apache-2.0
"""A truncated MainNet and a cascade as methods of the benchmark, and the script that compares them."""

import json
import sys

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark import run_benchmark
from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.benchmark.memory import peak_memory
from hf_sidenet.benchmark.methods import COMPILED, EAGER, RIVAL, twin_of

from ...benchmark.checkpoints import save_plain
from ...benchmark.test_catalog import answers_of, own_answers, text_rows
from ..commands import ROOT, run, sentences


@pytest.fixture(scope="module")
def rivals(script):
    return script("rivals")


def test_every_rival_in_every_precision_of_eager_pytorch(rivals, text_checkpoint, small_model):
    catalog = Catalog(Settings(text_checkpoint, precisions=("float32", "bfloat16"), engines=(EAGER, COMPILED)))
    given = rivals.Rivals(small_model, small_model, 0.7)
    found = rivals.rival_methods(given, catalog)
    assert [each.name for each in found] == [
        "truncated MainNet, float32, eager, by length",
        "cascade, float32, eager, by length",
        "truncated MainNet, bfloat16, eager, by length",
        "cascade, bfloat16, eager, by length",
    ]
    assert {each.group for each in found} == {RIVAL}
    assert all(twin_of(each, [*catalog.methods(), *found]) is not None for each in found)
    assert [each.note for each in found] == ["", "its small model answers above 0.7"] * 2
    assert rivals.rival_methods(rivals.Rivals(), catalog) == []


def test_the_truncated_mainnet_answers_for_itself(rivals, text_checkpoint, small_model):
    catalog = Catalog(Settings(text_checkpoint))
    (method,) = rivals.rival_methods(rivals.Rivals(truncated=small_model), catalog)
    rows = text_rows()
    model = rivals.load_plain(small_model, catalog, "float32").modules[0].classifier
    with torch.no_grad():
        expected = [int(model(row.inputs["input_ids"].unsqueeze(0)).logits.argmax()) for row in rows]
    assert answers_of(method, rows) == (expected, [0] * len(rows))


def test_other_checkpoints(rivals, text_checkpoint):
    catalog = Catalog(Settings(text_checkpoint, precisions=("float32", "bfloat16"), engines=(EAGER, COMPILED)))
    given = rivals.Rivals(alone={"a bag of words": text_checkpoint}, without_input=text_checkpoint)
    found = {each.name: each for each in rivals.rival_methods(given, catalog)}
    # In the precision for which they were calibrated.
    assert [*found] == [
        "a bag of words, float32, eager, by length",
        "runner without exit 0, float32, eager, by length",
        "runner without exit 0, float32, compiled, by length",
    ]
    rows, (model, _) = text_rows(), load_checkpoint(text_checkpoint)
    alone, exits = answers_of(found["a bag of words, float32, eager, by length"], rows)
    assert alone == own_answers(model, rows, 0.0)[0]
    assert set(exits) == {0}
    routed = answers_of(found["runner without exit 0, float32, eager, by length"], rows)
    assert routed == own_answers(model, rows, model.config.thresholds)


def test_the_cascade_is_as_accurate_as_the_checkpoint(rivals, text_checkpoint, small_model):
    rows, catalog = text_rows(), Catalog(Settings(text_checkpoint))
    labels, _ = catalog.reference.mainnet(rows)
    labels = [int(label) ^ (place % 5 == 0) for place, label in enumerate(labels)]
    given = rivals.with_threshold(rivals.Rivals(small_model=small_model), catalog, rows, labels)
    (method,) = rivals.rival_methods(given, catalog)
    found, exits = answers_of(method, rows)
    model, _ = load_checkpoint(text_checkpoint)
    reached = sum(a == b for a, b in zip(found, labels, strict=True))
    routed = sum(a == b for a, b in zip(own_answers(model, rows, model.config.thresholds)[0], labels, strict=True))
    plain = sum(a == b for a, b in zip(own_answers(model, rows, 1.0)[0], labels, strict=True))
    assert reached >= min(routed, plain)
    assert set(exits) <= {0, 1}
    # What is given stays.
    given = rivals.Rivals(small_model=small_model, small_threshold=0.6)
    assert rivals.with_threshold(given, catalog, rows, labels) is given


@pytest.mark.medium
def test_another_process_makes_the_same_method(rivals, text_checkpoint, small_model, monkeypatch):
    catalog = Catalog(Settings(text_checkpoint))
    method = rivals.rival_methods(rivals.Rivals(small_model, small_model, 0.6), catalog)[-1]
    function, arguments = method.recipe
    assert function == "rivals:method_named"
    again = rivals.method_named(**json.loads(json.dumps(arguments)))
    assert (again.name, again.note) == (method.name, method.note)
    assert answers_of(again, text_rows()) == answers_of(method, text_rows())
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples" / "benchmarks"), prepend=":")
    assert peak_memory(method, [text_rows()[:2]], torch.device("cpu")) > 0


def test_what_cannot_be_compared_is_refused(rivals, text_checkpoint, small_model, tmp_path):
    catalog = Catalog(Settings(text_checkpoint))
    rivals.check_rivals(rivals.Rivals(small_model, small_model), catalog)
    other = str(save_plain(tmp_path / "other", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}))
    with pytest.raises(
        ValueError, match=r"`truncated` must have the checkpoint's classes, \['bad', 'good'\], got \['a', 'b'\]"
    ):
        rivals.check_rivals(rivals.Rivals(truncated=other), catalog)
    with pytest.raises(ValueError, match="`small_model` must have the checkpoint's classes"):
        rivals.check_rivals(rivals.Rivals(small_model=other), catalog)
    with pytest.raises(ValueError, match="`a bag` must have the checkpoint's classes"):
        rivals.check_rivals(rivals.Rivals(alone={"a bag": other}), catalog)
    words = str(save_plain(tmp_path / "words", words=["anotherword"]))
    with pytest.raises(
        ValueError, match=r"`truncated` must have the checkpoint's vocabulary of 30,522 tokens, .* 30,523"
    ):
        rivals.check_rivals(rivals.Rivals(truncated=words), catalog)
    with pytest.raises(ValueError, match=r"`small_threshold` must come with `small_model`, got 0.5 alone"):
        rivals.Rivals(small_threshold=0.5)
    with pytest.raises(ValueError, match="`small_model` must have a `small_threshold`, got none: call `with_thresh"):
        rivals.rival_methods(rivals.Rivals(small_model=small_model), catalog)


@pytest.mark.medium
def test_rivals_are_timed_with_the_checkpoints_own_methods(rivals, text_checkpoint, small_model):
    rows, catalog = text_rows(), Catalog(Settings(text_checkpoint))
    methods = [*catalog.methods(), *rivals.rival_methods(rivals.Rivals(truncated=small_model), catalog)]
    found = run_benchmark(methods, rows, [0] * len(rows), batch_sizes=(8,), repeats=1, progress=False)
    truncated = found.sizes[0].methods[-1]
    assert truncated.kind == "truncated MainNet"
    assert truncated.ratio > 0


@pytest.mark.slow
def test_the_table_of_texts(text_checkpoint, small_model, tmp_path):
    rows = "".join(f"{text}\t{label}\n" for text, label in sentences(40, seed=5))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.tsv").write_text("text\tlabel\n" + rows)
    stdout = run(
        ROOT / "examples" / "benchmarks" / "run.py", text_checkpoint, tmp_path / "data", "--truncated", small_model,
        "--small_model", small_model, "--small_threshold", 0.6, "--batch_sizes", 8, "--rows", 24, "--repeats", 1,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    names = [line.split(", ")[0].removeprefix("| ") for line in stdout.splitlines() if ", eager, " in line]
    methods = names[: names.index("runner") + 1]
    # Plain, then rivals, then ours.
    assert methods.index("plain MainNet") < methods.index("truncated MainNet") < methods.index("cascade")
    assert methods.index("cascade") < methods.index("own forward")
    assert "- cascade, float32, eager, by length: its small model answers above 0.6" in stdout.splitlines()
    assert "\nAims:\n\n- " in stdout


def test_a_threshold_needs_its_model(script, monkeypatch, capsys, tmp_path):
    given = ["checkpoint", "data", "--small_threshold", "0.5", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run.py", *given])
    with pytest.raises(SystemExit):
        script("run").arguments()
    assert "--small_threshold needs --small_model, got 0.5 without it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["run.py", *given[:2], *given[4:], "--alone", "bag="])
    with pytest.raises(SystemExit):
        script("run").arguments()
    assert "--alone must have the form NAME=CHECKPOINT, got 'bag='" in capsys.readouterr().err
