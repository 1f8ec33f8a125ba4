# SPDX-License-Identifier: Apache-2.0
"""The scripts behind the benchmark's tables, as typed, on tiny data and models."""

import csv
import json
import re
import sys

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_sidenet import SideNetForImageClassification, SideNetRunner
from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.inference import Stages
from hf_sidenet.inference.routings import ROUTINGS
from hf_sidenet.inference.rows import Row

from ...models import tiny
from ..commands import ROOT, run, save_pictures, save_text_mainnet, sentences


FOLDER = ROOT / "examples" / "benchmarks"
CLASSES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
SHADES = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
RESNET_18 = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
SIZE = {"height": 32, "width": 32}
NEEDS_EARLYON = "needs pip install -r examples/benchmarks/requirements.txt"


def texts(folder):
    """DATA_DIR with three tsv files."""
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 48), ("validation", 24), ("test", 24))):
        lines = ["text\tlabel", *("\t".join(row) for row in sentences(count, seed))]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def pictures(folder):
    """DATA_DIR with three folders of pictures."""
    for seed, (name, count) in enumerate((("train", 12), ("validation", 8), ("test", 4))):
        save_pictures(folder / name, count, seed)
    return folder


def resnet_18():
    return ResNetForImageClassification(ResNetConfig(**RESNET_18, **SHADES)).eval()


@pytest.mark.medium
def test_a_text_mainnet_cut_to_half_of_its_flops(tmp_path):
    mainnet, out = save_text_mainnet(tmp_path / "mainnet", **CLASSES), tmp_path / "out"
    stdout = run(
        FOLDER / "truncate.py", mainnet, texts(tmp_path / "texts"), "--flops", 0.5, "--epochs", 1,
        "--max_train_rows", 32, "--output_dir", out,
    )  # fmt: skip
    assert "kept [2], 0.5" in stdout
    assert "new weights: none" in stdout
    assert re.search(r"right: \S+ % of validation rows, \S+ % of test rows", stdout)
    # A plain classifier, with what it needs to read texts.
    short = AutoModelForSequenceClassification.from_pretrained(out)
    assert (short.config.num_hidden_layers, short.config.id2label) == (2, CLASSES["id2label"])
    assert short(**AutoTokenizer.from_pretrained(out)("a lovely film", return_tensors="pt")).logits.shape == (1, 2)
    assert json.loads((out / "truncate.json").read_text())["keep"] == [2]


def test_cuts_keep_the_first_weights(script):
    cuts = script("cuts")
    mainnet = tiny.bert()
    assert cuts.cuts_of(mainnet.config) == [(1,), (2,), (3,)]
    short, new = cuts.cut(mainnet, [3])
    assert new == []
    given = mainnet.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in short.state_dict().items())
    with pytest.raises(ValueError, match=r"`keep` must be at least 1 and a part of .* \[4\], got \[4\]"):
        cuts.cut(mainnet, [4])


def test_cuts_of_a_cnn(script):
    cuts = script("cuts")
    mainnet = tiny.resnet(depths=[2, 2, 1, 1])
    assert cuts.cuts_of(mainnet.config) == [
        (1,), (2,), (2, 1), (2, 2), (2, 2, 1), (1, 1), (1, 1, 1), (1, 1, 1, 1)
    ]  # fmt: skip
    # All stages: the head stays. Fewer: it has another width.
    assert cuts.cut(mainnet, [1, 1, 1, 1])[1] == []
    short, new = cuts.cut(mainnet, [2, 1])
    assert new == ["classifier.1.weight"]
    assert short(**tiny.images()).logits.shape == (4, 3)
    shares = [cuts.flops_of(type(mainnet), cuts.cut_config(mainnet.config, cut), tiny.images()) for cut in ([1], [2])]
    assert 0 < shares[0] < shares[1] < cuts.flops_of(type(mainnet), mainnet.config, tiny.images())


@pytest.mark.medium
def test_growth(tmp_path):
    stdout = run(
        FOLDER / "growth.py", "--rows", 64, 256, "--batch_size", 16, "--profile", 64, "--output_dir", tmp_path
    )  # fmt: skip
    assert re.search(
        r"Time grows as rows to the power of -?\d\.\d+ \(processor time: -?\d.*peak memory from \d", stdout
    )
    assert "Profile of 64 rows" in stdout
    with open(tmp_path / "growth.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["rows"] for line in lines] == ["64", "256"]
    assert all(0.2 < float(line["left_early"]) < 0.8 for line in lines)
    assert (tmp_path / "growth.png").stat().st_size > 0


@pytest.mark.medium
def test_a_fresh_runner_against_the_ideal(text_checkpoint, tmp_path):
    (tmp_path / "texts.tsv").write_text(
        "".join(f"{line}\n" for line in ["text", *(text for text, _ in sentences(50))])
    )
    stdout = run(
        FOLDER / "fresh.py", text_checkpoint, tmp_path / "texts.tsv", "--rows", 64, 400, "--batch_sizes", 8,
        "--repeats", 1, "--routings", "gates", "--output", tmp_path / "fresh.csv", HF_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert "| 400 | 8 | fresh | " in stdout
    assert re.search(r"Medians of 1 rounds \(clock\)\. CPU: .*, 1 threads; GPU: .*'torch': '", stdout)
    with open(tmp_path / "fresh.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["rows"], line["method"]) for line in lines] == [
        (rows, method) for rows in ("64", "400") for method in ("ideal", "warm", "fresh", "gates")
    ]
    for line in lines:
        assert (float(line["share_of_ideal"]) == 1) == (line["method"] == "ideal")
        assert (float(line["of_warm"]) == 1) == (line["method"] == "warm")
        assert (line["chosen"] in ROUTINGS) == (line["method"] in ("warm", "fresh"))


def test_the_ideal_runs_every_row_as_far_as_it_goes(script, text_checkpoint):
    fresh = script("fresh")
    model, tokenizer = load_checkpoint(text_checkpoint)
    texts = [text for text, _ in sentences(50)]
    runner = SideNetRunner(model, tokenizer, routing="gates")
    exits = [answer.exit_index for answer in runner.predict(texts)]
    rows = runner.reader.read(range(50), texts, [runner.thresholds] * 50)
    calls = fresh.padded_batches(Stages(model), rows, 8)
    for stage in range(3):
        places = [row.place for k, batch in calls if k == stage for row in batch.rows]
        assert sorted(places) == [place for place, index in enumerate(exits) if index >= stage]
    assert len(list(fresh.ideal(Stages(model), calls, 50))) == 50


def test_the_exponent_of_a_square(script):
    counts = [10, 100, 1000]
    assert script("growth").exponent(counts, [3e-6 * count**2 for count in counts]) == pytest.approx(2)


@pytest.mark.slow
def test_gpu_rehearsed_without_one(tmp_path, script, monkeypatch, capsys):
    given = [
        "--device", "cpu", "--models", "tiny-bert", "--batch_sizes", "8", "--rows", "16", "--backend", "eager",
        "--repeats", "1", "--output_dir", str(tmp_path),
    ]  # fmt: skip
    stdout = run(FOLDER / "gpu.py", *given)
    assert stdout.startswith("For timing only: random weights; θ is set so that 0.5 of the rows exit early.")
    with open(tmp_path / "tiny-bert.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["engine"], line["method"]) for line in lines] == [
        *(("eager", name) for name in ("plain", "gates", "per_batch", "pooled")),
        *(("compiled", name) for name in ("plain", "pooled")),
    ]
    for line in lines:
        assert (float(line["speedup"]) == 1) == (line["method"] == "plain")
        assert (line["efficiency"] == "") == (line["method"] == "plain")
    # What is complete is not measured again.
    monkeypatch.setattr(sys, "argv", ["gpu.py", *given])
    script("gpu").main()
    assert capsys.readouterr().out == f"tiny-bert: {tmp_path / 'tiny-bert'}.csv exists already\n"


def test_gpu_lets_exactly_a_share_leave(script):
    shapes = script("gpu_models").TINY_SHAPES
    for shape in shapes.values():
        rows = shape.rows(10, 0.3, torch.float32)
        assert [row.place for row in rows if row.thresholds[0] == 0] == [3, 6, 9]
        assert len({row.kind for row in rows}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")
def test_gpu_says_what_is_missing(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        script("gpu").main()
    assert "there is no CUDA device here" in capsys.readouterr().err


@pytest.fixture
def peer(script):
    """The module that runs earlyon."""
    pytest.importorskip("earlyon", reason=NEEDS_EARLYON)
    return script("earlyon_method")


@pytest.mark.slow
def test_earlyon_on_the_mainnets_weights_and_the_big_table(peer, tmp_path):
    mainnet, small, checkpoint = resnet_18(), tmp_path / "small", tmp_path / "checkpoint"
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1], input_size=[3, 32, 32])
    model.config.thresholds = 0.5
    named = {tmp_path / "mainnet": mainnet, small: tiny.resnet(num_labels=2, **SHADES), checkpoint: model}
    for folder, each in named.items():
        each.save_pretrained(folder)
        ViTImageProcessor(size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    data, earlyon, out = pictures(tmp_path / "pictures"), tmp_path / "earlyon", tmp_path / "out"

    stdout = run(FOLDER / "earlyon_model.py", tmp_path / "mainnet", data, "--epochs", 1, "--output_dir", earlyon)
    assert re.search(r"exits trained in \d+ s; thresholds .* on 8 validation rows", stdout)
    alone, whole = peer.earlyon_methods(earlyon)
    assert whole.twin == alone.name
    pixels = torch.randn(3, 3, 32, 32)
    rows = [Row(i, {"pixel_values": each}, 0, ()) for i, each in enumerate(pixels)]
    with torch.inference_mode():
        expected = mainnet(pixel_values=pixels).logits
        said = alone.make(3, []).put(rows)
    torch.testing.assert_close(torch.stack([each.logits for each in said]), expected, rtol=1e-4, atol=1e-4)
    assert [each.label for each in said] == [("dark", "light")[i] for i in expected.argmax(-1)]

    stdout = run(
        FOLDER / "run.py", checkpoint, data, "--truncated", small, "--small_model", small, "--earlyon", earlyon,
        "--batch_sizes", 4, "--rows", 8, "--repeats", 1, "--output_dir", out,
    )  # fmt: skip
    for name in ("plain MainNet", "truncated MainNet", "cascade", "runner", "earlyon's backbone", "earlyon"):
        assert f"| {name}, float32, eager, mixed " in stdout, name
    assert "\nAims:\n\n- " in stdout
    assert {"benchmark.json", "benchmark.md", "benchmark.png"} < {path.name for path in out.iterdir()}
    assert len(list(out.glob("*.csv"))) == 1


def test_earlyon_lets_a_batch_leave_when_all_are_sure(peer, script):
    wrapper = script("earlyon_model").with_weights_of(resnet_18(), 32)
    wrapper.config.enabled_exits = [True, False]
    answerer = peer.WithExits(wrapper.eval(), ["dark", "light"])
    rows = [Row(i, {"pixel_values": 3 * torch.randn(3, 32, 32)}, 0, ()) for i in range(4)]
    wrapper.config.confidence_thresholds = [0.0, 0.0]
    first = answerer.put(rows)
    assert [each.exit_index for each in first] == [0] * 4
    # One row that is not sure keeps all of them; alone, the others leave.
    wrapper.config.confidence_thresholds = [sum(sorted(each.confidence for each in first)[:2]) / 2, 0.0]
    assert [each.exit_index for each in answerer.put(rows)] == [2] * 4
    assert sorted(each.exit_index for row in rows for each in answerer.put([row])) == [0, 0, 0, 2]


def test_earlyon_takes_no_other_network(peer, script):
    with pytest.raises(ValueError, match="`mainnet` must be a ResNet-18 with basic layers, as torchvision has it"):
        script("earlyon_model").with_weights_of(tiny.resnet(), 32)


def test_earlyon_is_named_where_it_is_missing(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "earlyon", None)
    with pytest.raises(ImportError, match=r"pip install -r examples/benchmarks/requirements\.txt"):
        script("earlyon_model").require_earlyon()
