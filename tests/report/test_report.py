# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from hf_sidenet.report import Report


def no_constant(name):
    raise AssertionError(name)


def test_numbers_that_json_does_not_have_become_null():
    report = {"mainnet": {"name": "me/mainnet"}, "a": [float("nan"), (float("inf"), 0.5)], "b": {"c": -float("inf")}}
    text = Report(report).to_json()
    assert json.loads(text, parse_constant=no_constant) == {
        "mainnet": {"name": "me/mainnet"},
        "a": [None, [None, 0.5]],
        "b": {"c": None},
    }
    assert report["a"][1] == (float("inf"), 0.5)


@pytest.mark.parametrize("name", ["me/mainnet", "bert"])
def test_an_id_on_the_hub_stays(name):
    assert json.loads(Report({"mainnet": {"name": name}}).to_json())["mainnet"]["name"] == name


@pytest.mark.parametrize(
    "name", ["/home/me/secret/bert", "./bert", "../bert", "~/bert", "C:\\me\\bert", "a/b/c", "", None]
)
def test_a_folder_does_not(name):
    assert json.loads(Report({"mainnet": {"name": name}}).to_json())["mainnet"]["name"] is None


def test_a_folder_that_looks_like_an_id_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "mainnet").mkdir(parents=True)
    assert json.loads(Report({"mainnet": {"name": "me/mainnet"}}).to_json())["mainnet"]["name"] is None
