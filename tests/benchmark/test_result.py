# SPDX-License-Identifier: Apache-2.0
"""Written files: a document, a page, a figure, and a CSV file named after hardware and versions."""

import csv
import json

import pytest
from PIL import Image

from hf_sidenet.benchmark.methods import OURS, RUNNER
from hf_sidenet.benchmark.result import BenchmarkResult, environment, file_name

from .cases import result, size, stage_result


SETTINGS = {"repeats": 3, "num_threads": 2, "device": "cpu", "max_accuracy_drop": 0.01}
ENVIRONMENT = {
    "hardware": "CPU: Some(R) CPU @ 2.0GHz, 2 threads; GPU: none",
    "versions": {"python": "3.12.1", "hf_sidenet": "0.1", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
    "date": "2026-01-01",
    "provenance": "- command: `python`",
}
NAME = "cpu-some-r-cpu-2.0ghz-2-threads-gpu-none-torch-2.13.0-cpu-transformers-5.23.0"


@pytest.fixture
def found():
    mine = result(
        RUNNER, OURS, 200.0, shares=[0.5, 0.5], twin=result().name, ratio=2.0, efficiency=0.9, notes=["a", "b"]
    )
    sizes = [size(8, result(), mine, stages=[stage_result(1.0)]), size(32, result(speed=120))]
    return BenchmarkResult(sizes, SETTINGS, ENVIRONMENT, {"model": "a-model"})


def test_everything_is_written(found, tmp_path):
    paths = found.save(tmp_path / "out")
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert set(document.pop("files")) == {path.name for path in paths}
    assert document == json.loads(json.dumps(found.to_dict()))
    assert document["verdict"]["worth"] is True
    assert document["sizes"][0]["methods"][1]["ratio"] == 2.0
    page = (tmp_path / "out" / "benchmark.md").read_text()
    assert page.startswith("# Benchmark\n\n- command: `python`\n\n- model: a-model\n\nWorth it here: ")
    assert found.text() in page
    with Image.open(tmp_path / "out" / "benchmark.png") as picture:
        assert picture.width > 1000
    with pytest.raises(ValueError, match="`output_dir` must be new or empty"):
        found.save(tmp_path / "out")
    found.save(tmp_path / "out", overwrite=True)


def test_without_matplotlib_only_the_picture_is_missing(found, tmp_path, monkeypatch, caplog):
    def missing(module, extra):
        raise ImportError(f'This needs {module}: pip install "hf_sidenet[{extra}]"')

    monkeypatch.setattr("hf_sidenet.evaluation.plots.require", missing)
    with caplog.at_level("WARNING"):
        paths = found.save(tmp_path / "out")
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == ["benchmark.json", "benchmark.md", f"{NAME}.csv"]
    assert 'The benchmark has no figure: This needs matplotlib: pip install "hf_sidenet[plots]"' in caplog.text


def test_csv(found, tmp_path):
    path = found.save(tmp_path / "out")[-1]
    assert path.name == f"{NAME}.csv"
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["batch_size"], line["kind"]) for line in lines] == [
        ("8", "plain MainNet"),
        ("8", "runner"),
        ("32", "plain MainNet"),
    ]
    mine = lines[1]
    assert (float(mine["ratio"]), float(mine["p95_ms"]), float(mine["rows_per_second"])) == (2, 20, 200)
    assert (mine["share_of_exit_0"], mine["share_of_exit_1"], mine["notes"]) == ("0.5", "0.5", "a; b")
    assert (lines[0]["share_of_exit_1"], lines[0]["ratio"]) == ("0.0", "")
    assert (mine["torch"], mine["num_threads"], mine["hardware"]) == ("2.13.0+cpu", "2", ENVIRONMENT["hardware"])


def test_the_name_says_hardware_and_versions():
    assert file_name(ENVIRONMENT) == NAME
    here = environment()
    assert {"python", "torch", "transformers"} <= set(here["versions"])
    assert here["provenance"].startswith("- command: ")
    assert "threads" in file_name(here)
