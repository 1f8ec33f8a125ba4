# SPDX-License-Identifier: Apache-2.0
"""docs/mainnets.md lists every MainNet that is tested, and it is made from the outcomes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from . import test_refused_mainnets
from .collect import all_testers
from .mainnets_page import COLUMNS, MainnetsPage


PAGE = Path(__file__).parents[2] / "docs" / "mainnets.md"
AGAIN = "python -m pytest tests/models --mainnets-page docs/mainnets.md"


@pytest.fixture
def page(request):
    if request.config.getoption("--mainnets-page"):
        pytest.skip("the page is being written")
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", all_testers(), ids=lambda kind: kind.__name__)
def test_every_tested_mainnet_has_its_row(kind, page):
    rows = [line for line in page.splitlines() if line.startswith(f"| {kind.title()} |")]
    assert len(rows) == 1, f"run `{AGAIN}`"
    assert "failed" not in rows[0]
    assert "not run" not in rows[0]


def test_every_refused_mainnet_has_its_row(page):
    names = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[kind] for kind in test_refused_mainnets.TEXTS]
    names += [MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[kind] for kind in test_refused_mainnets.IMAGES]
    names += [f"timm {architecture}" for architecture in test_refused_mainnets.TIMM]
    assert [name for name in names if f"| {name}" not in page] == [], f"run `{AGAIN}`"


def report(test, outcome, kind="TestOne", **recorded):
    longrepr = ("file", 1, "Skipped: no such thing") if outcome == "skipped" else None
    nodeid = f"tests/models/test_modeling_one.py::{kind}::{test}"
    return SimpleNamespace(
        when="call", outcome=outcome, nodeid=nodeid, longrepr=longrepr, user_properties=list(recorded.items())
    )


def test_the_page_tells_what_happened(tmp_path):
    page = MainnetsPage(tmp_path / "page.md", ("tests/models",))
    (exits_off, elsewhere), (theta,), (alone,), (saved,), *_, (half,), _ = COLUMNS.values()
    for one in (
        report(exits_off, "passed", mainnet="One"),
        report(elsewhere, "passed"),
        report(theta, "failed"),
        report(alone, "passed", **{"largest difference": "2e-07"}),
        report(saved, "skipped"),
        report(f"{half}[all leave]", "failed"),
        report(f"{half}[some leave]", "passed"),
    ):
        page.pytest_runtest_logreport(one)
    page.pytest_sessionfinish()
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    bad, missing = "**failed**", "**not run**"
    assert f"| One | yes | {bad} | 2e-07 | no (1) | {missing} | {missing} | {bad} | {missing} |" in text
    assert "1. no such thing." in text
    assert "`python -m pytest tests/models`" in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
