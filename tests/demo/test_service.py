# SPDX-License-Identifier: Apache-2.0
"""A visitor's file and its own classes, by the rule for labels."""

import json
import shutil

import pytest

from hf_sidenet.demo.service import Demo

from ..attached import sentences


@pytest.fixture
def answer(checkpoint, tmp_path):
    """What the page says to a file with these labels of the classes 0 and 1."""
    rows = sentences()["test"]

    def call(names, **kwargs):
        lines = [f"{row['text']},{names[row['label']]}" for row in rows]
        (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
        demo = Demo(str(checkpoint), **kwargs)
        return demo.batch(0, str(tmp_path / "rows.csv"), tmp_path, lambda done, total: None)[0]

    return call


@pytest.mark.parametrize("names", [["bad", "good"], ["BAD", "Good"], [0, 1], ["LABEL_0", "1.0"]])
def test_rows_are_counted_by_their_own_classes(answer, names):
    assert "of 80 right (" in answer(names)


def test_names_that_are_not_known_are_said(answer):
    text = answer(["no", "yes"])
    assert " right (" not in text
    assert "Not compared with the classes in the file: " in text
    assert "of 80 right (" in answer(["no", "yes"], labels=["no", "yes"])


def test_an_order_that_the_answers_contradict_is_said(answer):
    for text in (answer(["good", "bad"]), answer(["yes", "no"], labels=["no", "yes"])):
        assert " right (" not in text
        assert "do not match the MainNet&#x27;s answers" in text


def test_some_rows_without_a_label_are_not_counted(answer):
    text = answer(["", "good"])
    assert "80 rows" in text
    assert " right (" in text
    assert "of 80 right (" not in text


def test_texts_cut_at_another_length_are_not_certified(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "cut")
    assert Demo(str(folder)).not_certified is None
    report = json.loads((folder / "report.json").read_text())
    report["settings"]["max_length"] = 4
    (folder / "report.json").write_text(json.dumps(report))
    assert "the length at which texts are truncated changed" in Demo(str(folder)).not_certified
