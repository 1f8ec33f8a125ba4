# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet benchmark` on a tiny checkpoint."""

import inspect
import json

import pytest
import torch

from hf_sidenet.benchmark.methods import COMPILED, EAGER, ONNX_RUNTIME
from hf_sidenet.cli.checkpoints import ENGINES, PRECISIONS, benchmark
from hf_sidenet.cli.errors import CommandError
from hf_sidenet.cli.options import DataOptions
from hf_sidenet.inference.precision import DTYPES
from hf_sidenet.models import SideNetConfig
from tests.cli.test_cli import contents, run, run_json
from tests.examples.commands import save_pictures, sentences


@pytest.fixture(scope="module")
def test_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "test.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in sentences(40, seed=5)))
    return path


@pytest.fixture
def typed(text_checkpoint, test_file):
    return ["benchmark", text_checkpoint, "--test-file", test_file, "--precision", "float32", "--repeats", 1]


@pytest.mark.medium
def test_tables_files_and_a_verdict(typed, tmp_path):
    sizes = ["--batch-size", 1, "--batch-size", 8, "--rows", 24, "--max-accuracy-drop", 1]
    done = run(*typed, *sizes, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err[-2000:]
    lines = done.out.splitlines()
    assert lines[0].startswith("- model: text")
    assert "- data: test.tsv" in lines
    assert "- rows: 24 of 40, in random order (seed 0)" in lines
    assert any(line.startswith(("Worth it here: ", "Do not use here: ")) for line in lines)
    assert "## Batch size 1, 24 rows" in lines
    assert "## Batch size 8, 24 rows" in lines
    assert any(line.startswith("| runner, float32, eager, by length") for line in lines)
    # The goals of the developers are not shown to users.
    assert not [line for line in lines if "MISSED" in line or line.startswith("- met")]
    assert lines[-1] == f"Written to {tmp_path / 'out'}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[:3] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    assert names[3].endswith(".csv")
    before = contents(tmp_path / "out")
    done = run(*typed, *sizes, "--output-dir", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith("Error: --output-dir: must be new or empty unless --overwrite is given")
    assert contents(tmp_path / "out") == before


@pytest.mark.medium
def test_json(typed, text_checkpoint):
    # Half of the rows exit at the first SideNet, none at the second.
    theta = SideNetConfig.from_pretrained(text_checkpoint).thresholds[0]
    before = torch.get_num_threads()
    try:
        sizes = ["--batch-size", 4, "--rows", 12, "--seed", 3, "--threads", 1]
        found = run_json(*typed, *sizes, "--thresholds", f"{theta},1")
    finally:
        torch.set_num_threads(before)
    assert found["output_dir"] is None
    assert found["settings"]["batch_sizes"] == [4]
    assert (found["settings"]["seed"], found["settings"]["num_threads"]) == (3, 1)
    (size,) = found["sizes"]
    assert size["num_rows"] == 12
    mine = [each for each in size["methods"] if each["group"] == "ours"]
    assert mine
    for each in mine:
        first, second, mainnet = each["shares"]
        assert second == 0.0
        assert min(first, mainnet) > 0
    assert all(each["notes"][0] == "θ given by hand" for each in mine)
    assert found["verdict"]["sizes"][0]["text"].startswith("batch size 4: ")
    json.dumps(found, allow_nan=False)


@pytest.mark.medium
def test_pictures(image_checkpoint, tmp_path):
    from hf_sidenet.attaching.checkpoint import load_checkpoint

    model, processor = load_checkpoint(image_checkpoint)
    names = ["dark", "light", "none"]
    model.config.id2label = dict(enumerate(names))
    model.config.mainnet_config.id2label = dict(enumerate(names))
    model.config.label2id = model.config.mainnet_config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    save_pictures(tmp_path / "pictures", 6)
    typed = ["benchmark", tmp_path / "model", "--test-file", tmp_path / "pictures", "--precision", "float32"]
    found = run_json(*typed, "--repeats", 1, "--batch-size", 4)
    assert {each["bucketed"] for each in found["sizes"][0]["methods"]} == {False}
    assert "longest text, tokens" not in found["about"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--precision", "float8"], "Error: --precision: must be distinct names among float32, bfloat16, float16, "),
        (["--engines", "eager,eager"], "Error: --engines: must be distinct names among eager, compiled, onnx, got "),
        (["--thresholds", "0.5"], "Error: --thresholds: must have one value per SideNet (2), got 1"),
        (["--thresholds", "high"], "Error: --thresholds: must be numbers, got 'high'."),
        (["--device", "tpu0"], "Error: --device: must be a device that PyTorch can use here, got 'tpu0'"),
        (["--max-accuracy-drop", "nan"], "Error: --max-accuracy-drop: "),
        (["--batch-size", "0"], "Error: --batch-size: "),
        (["--batch-size", "8", "--batch-size", "8"], "Error: --batch-size: must be distinct integers ≥ 1, got "),
    ],
)
def test_what_cannot_be_is_one_line(typed, arguments, line):
    done = run(*typed, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(line)


def test_no_number_is_refused_before_anything_is_loaded():
    rows = DataOptions({"test": None}, {"test": "--test-file"})
    with pytest.raises(CommandError, match=r"--max-accuracy-drop: must be in \[0, 1\], got nan"):
        benchmark("nowhere", rows, max_accuracy_drop=float("nan"))


def test_results_do_not_go_into_the_checkpoint(typed, text_checkpoint):
    done = run(*typed, "--output-dir", text_checkpoint)
    assert done.code == 2
    assert done.last.startswith("Error: --output-dir: must not be or contain DIRECTORY")


def test_defaults_are_the_librarys():
    from hf_sidenet.benchmark import run_benchmark

    here, there = inspect.signature(benchmark).parameters, inspect.signature(run_benchmark).parameters
    for name in ("repeats", "max_accuracy_drop", "seed", "memory"):
        assert here[name].default == there[name].default, name
    assert tuple(here["batch_size"].default) == there["batch_sizes"].default
    assert tuple(ENGINES.values()) == (EAGER, COMPILED, ONNX_RUNTIME)
    assert set(here["precision"].default) < set(PRECISIONS)
    assert {*DTYPES, "int8"} == set(PRECISIONS)
