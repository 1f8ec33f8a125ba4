# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands, as typed, in another folder; its Python too."""

import re
import shutil

import pytest

from .commands import ROOT, run


PAGE = ROOT / "docs" / "tutorials" / "cheaper-classifier.md"


@pytest.mark.slow
def test_every_command_runs_and_says_what_the_page_says(tmp_path):
    page, folder = tmp_path / "page.md", tmp_path / "tutorial"
    shutil.copy(PAGE, page)
    run("examples/attach/refresh_tutorial.py", page, "--folder", folder)
    printed, expected = page.read_text(), PAGE.read_text()
    # Numbers differ a little between machines; words do not.
    for text in (
        "classifier: outputs/tutorial/mainnet",
        "accuracy_drop<=0.005 at level 0.05 needs at least",
        "Verdict: attach (the cheapest certified threshold).",
        "Guarantee: with probability ≥ 0.95 over the",
        "Verdict: new θ (the most accurate threshold within the budget).",
        "Verdict: do not attach: no certified threshold is within the budget",
        "(exit code 3)",
    ):
        assert expected.count(text) == printed.count(text) > 0, text
    (code,) = re.findall(r"```python\n(.*?)```", printed, flags=re.DOTALL)
    names = {}
    exec(code.replace("outputs/tutorial", str(folder)), names)
    assert names["answers"][0]["label"] == "7"


def test_every_block_of_output_has_its_command():
    kinds = re.findall(r"^```(\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    before = [kinds[i - 1] for i, kind in enumerate(kinds) if kind == "text"]
    assert before == ["bash"] * 7
