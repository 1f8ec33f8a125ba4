# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hf_sidenet.evaluation
from hf_sidenet.measurement import PAPER_BINS, expected_calibration_error


FOLDER = Path(hf_sidenet.evaluation.__file__).parent / "ece"
# Confidence 0.9 and right, 0.9 and wrong, 0.6 and right.
PREDICTIONS = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]
REFERENCES = [0, 1, 1]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` with its own caches; tests run with HF_HUB_OFFLINE=1."""
    evaluate = pytest.importorskip("evaluate")
    modules, cache = (str(tmp_path_factory.mktemp(name)) for name in ("modules", "cache"))
    with pytest.MonkeyPatch.context() as patch:
        # `evaluate` adds the folder to the path.
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", modules)
        yield lambda path=FOLDER: evaluate.load(str(path), cache_dir=cache)


def test_loads_from_its_folder_or_file_and_computes(load):
    # |2 × 0.9 − 1| and |0.6 − 1|, of 3.
    expected = {"ece": pytest.approx((0.8 + 0.4) / 3, abs=1e-6), "num_below": 0}
    assert load().compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    assert load(FOLDER / "ece.py").compute(predictions=PREDICTIONS, references=REFERENCES) == expected


def test_batches_and_single_rows_add_up(load):
    metric = load()
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert metric.compute()["ece"] == pytest.approx(0.4, abs=1e-6)


def test_equals_the_function_with_any_bins(load):
    probabilities = torch.randn(60, 8).softmax(-1)
    labels = torch.randint(0, 8, (60,))
    confidences, classes = probabilities.max(-1)
    for bins in ({}, PAPER_BINS, {"num_bins": 4, "low": 0.1, "high": 0.95}):
        made = load().compute(predictions=probabilities.numpy(), references=labels.numpy(), **bins)
        assert made["ece"] == pytest.approx(expected_calibration_error(confidences, classes == labels, **bins))
        assert made["num_below"] == int((confidences < bins.get("low", 0)).sum())
    assert 0 < int((confidences < 0.2).sum()) < 60


def test_logits_are_refused(load):
    for logits in ([[3.0, 1.0]], [[-1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"`predictions` must hold class probabilities.*in row 1"):
            load().compute(predictions=[[0.5, 0.5], *logits], references=[0, 1])


def test_impossible_bins_are_refused(load):
    with pytest.raises(ValueError, match="`low` and `high`"):
        load().compute(predictions=PREDICTIONS, references=REFERENCES, low=0.9, high=0.2)


@pytest.mark.medium
def test_the_package_imports_without_evaluate():
    # The folder is a package so that it gets installed; importing it must not need `evaluate`.
    code = "import sys; sys.modules['evaluate'] = sys.modules['datasets'] = None; import hf_sidenet.evaluation.ece"
    result = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
