# SPDX-License-Identifier: Apache-2.0
"""docs/report.md lists every key of real reports, and no others."""

import json

import pytest

from hf_sidenet.report.report import VERSION, Report

from ..attached import Runs
from .page import PAGE, problems, tables


pytestmark = pytest.mark.medium


NAMES = ["text", "image", "joint", "budget", "refused"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    found = {name: getattr(runs, name)().report for name in NAMES}
    runs.text().save(runs.folder / "saved")
    return {**found, "saved": json.loads((runs.folder / "saved" / "report.json").read_text(encoding="utf-8"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "saved"])
def test_every_key_of_a_report_is_on_the_page_with_its_type(reports, name):
    assert problems(json.loads(Report(reports[name]).to_json()), tables(), set()) == []


def test_every_key_on_the_page_is_in_a_report(reports):
    known, seen = tables(), set()
    for report in reports.values():
        problems(json.loads(Report(report).to_json()), known, seen)
    assert {(name, key) for name, table in known.items() for key in table} - seen == set()


def test_what_the_runs_are(reports):
    verdicts = {name: report["verdict"] for name, report in reports.items() if name in NAMES}
    assert verdicts == {**dict.fromkeys(NAMES, "attach"), "refused": "do not attach"}


def test_the_version_of_the_page(reports):
    assert f"`schema_version` is {VERSION}." in PAGE.read_text(encoding="utf-8")
    assert reports["text"]["schema_version"] == VERSION


def test_the_check_itself_sees_differences(reports):
    report = json.loads(reports["text"].to_json())
    assert len(tables()) == 27
    report["evaluation"]["routed"]["news"] = 1
    del report["data"]["train"]["num_rows"]
    report["mainnet"]["num_labels"] = "two"
    assert problems(report, tables(), set()) == [
        "report.mainnet.num_labels: 'two' is no integer",
        "report.data.train.num_rows is not in the report",
        "report.evaluation.routed.news is not on the page",
    ]
