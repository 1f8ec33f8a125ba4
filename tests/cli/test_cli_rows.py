# SPDX-License-Identifier: Apache-2.0
"""Realistic rows on the command line: some are bad, and libraries emit many warnings."""

import csv
import logging
import warnings

import pytest
from transformers import ViTImageProcessor
from transformers.utils import logging as transformers_logging

from hf_sidenet.cli.outcome import quiet

from ..attached import save_text_mainnet, sentences
from ..examples.commands import save_pictures
from ..models import tiny
from .test_cli import run, run_json


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A MainNet, and csv files in which a label and a text are missing."""
    folder = tmp_path_factory.mktemp("rows")
    splits = sentences()
    save_text_mainnet(folder / "mainnet", splits["train"])
    for name, rows in splits.items():
        lines = [[row["text"], ["bad", "good"][row["label"]]] for row in rows]
        if name == "validation":
            lines[4][1] = lines[7][0] = ""
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["text", "label"], *lines])
    return folder


@pytest.mark.medium
def test_rows_without_a_text_or_a_label(world, tmp_path):
    files = [text for name in ("train", "validation") for text in (f"--{name}-file", world / f"{name}.csv")]
    arguments = ["attach", world / "mainnet", *files, "--target", "accuracy_drop<=0.05", "--cache-dir", tmp_path]
    done = run(*arguments, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert done.last == (
        "Error: --validation-file: must have a text and a label in every row, but row 5 has no label in 'label'; "
        "row 8 has no text in 'text': 2 of 240 rows in total. --skip-bad-rows leaves them out. "
        f"(in {world / 'validation.csv'})"
    )
    found = run_json(*arguments, "--output-dir", tmp_path / "out", "--skip-bad-rows")
    assert {name: found["data"][name]["num_bad_rows_left_out"] for name in ("train", "validation")} == {
        "train": 0,
        "validation": 2,
    }
    assert found["data"]["validation"]["num_rows"] == 238


def test_a_class_that_is_not_known_is_named_with_its_file(world, tmp_path):
    lines = (world / "test.csv").read_text().splitlines()
    (tmp_path / "odd.csv").write_text("\n".join([*lines, "a film,ugly"]) + "\n")
    files = ["--train-file", world / "train.csv", "--validation-file", tmp_path / "odd.csv"]
    done = run("attach", world / "mainnet", *files, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert done.last.startswith(
        "Error: --validation-file: must contain classes of the MainNet, ['bad', 'good'], got 'ugly' in row 81. "
    )
    assert done.last.endswith(f"(in {tmp_path / 'odd.csv'})")


@pytest.mark.medium
def test_a_picture_that_cannot_be_read(tmp_path):
    names = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    tiny.resnet(num_labels=2, **names).save_pretrained(tmp_path / "mainnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "mainnet")
    for seed, split in enumerate(("train", "validation")):
        save_pictures(tmp_path / split, 60, seed)
    (tmp_path / "train" / "dark" / "7.png").write_bytes(b"no picture")
    files = [text for split in ("train", "validation") for text in (f"--{split}-file", tmp_path / split)]
    arguments = ["attach", tmp_path / "mainnet", *files, "--target", "accuracy_drop<=0.05", "--trust-labels"]
    arguments += ["--distillation-weight", 0, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "out"]
    done = run(*arguments)
    assert done.code == 2
    assert "Error: --train-file: must have a picture and a label in every row, but row " in done.last
    assert (
        "dark/7.png' that cannot be read (not a picture): 1 of 120 rows in total. --skip-bad-rows leaves" in done.last
    )
    assert "Requested torchvision backend" not in done.err
    found = run_json(*arguments, "--skip-bad-rows")
    assert found["data"]["train"]["num_bad_rows_left_out"] == 1


def test_libraries_are_quiet_for_a_while(capsys, monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    logger = transformers_logging.get_logger("transformers.image_processing")
    before = logging.getLogger("transformers").level
    with quiet():
        logger.warning("chatter")
        warnings.warn("chatter", UserWarning, stacklevel=1)
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
    assert "chatter" not in capsys.readouterr().err
    assert logging.getLogger("transformers").level == before
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    with quiet():
        assert logging.getLogger("transformers").level == before
