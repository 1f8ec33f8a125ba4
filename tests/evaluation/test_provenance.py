# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from hf_sidenet.evaluation import provenance as provenance_function


provenance = sys.modules[provenance_function.__module__]
HUB_TOKEN = "hf_" + "Ab1" * 10


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", list(words))
    return provenance.provenance().splitlines()[0]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["--token", "X"], "--token '***'"),
        (["--hub_token=X", "--seed", "1"], "'--hub_token=***' --seed 1"),
        (["--hub-token", "X", "--token", "X"], "--hub-token '***' --token '***'"),
        (["--hub_tok", HUB_TOKEN], "--hub_tok ***"),
        ([f"https://me:{HUB_TOKEN}@huggingface.co/me/data"], "https://me:***@huggingface.co/me/data"),
        (["--token="], "'--token=***'"),
        (["--seed", "1", "--token"], "--seed 1 --token"),
    ],
)
def test_secrets_are_masked(typed, shown, monkeypatch):
    assert command(monkeypatch, "train.py", *typed) == f"- command: `python train.py {shown}`"


def test_everything_else_is_as_it_was_typed(monkeypatch):
    line = command(monkeypatch, "a b.py", "--text_columns", "first token", "--hf_x", "--config_overrides", '{"a": 1}')
    assert line == "- command: `python 'a b.py' --text_columns 'first token' --hf_x --config_overrides '{\"a\": 1}'`"


def test_date_versions_and_hardware():
    _, dated, versions, hardware = provenance.provenance().splitlines()
    assert dated.startswith(f"- date: {date.today()}, commit: ")
    assert versions.startswith(f"- python {sys.version.split()[0]}, hf_sidenet {version('hf_sidenet')}, ")
    assert f"torch {version('torch')}, transformers {version('transformers')}" in versions
    assert f", {torch.get_num_threads()} threads; GPU: " in hardware


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    def without_timm(package):
        if package == "timm":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(provenance, "version", without_timm)
    assert list(provenance.versions("datasets")) == ["python", "hf_sidenet", "torch", "transformers", "datasets"]


def git(folder, *words):
    person = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    subprocess.run(["git", *person, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A repository with `lib/hf_sidenet/evaluation/provenance.py` in it; returns the folder `lib`."""
    file = tmp_path / "lib" / "hf_sidenet" / "evaluation" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(file))
    return tmp_path / "lib"


def commit():
    return provenance.provenance().splitlines()[1].partition("commit: ")[2]


def test_the_commit_is_of_this_packages_own_checkout(installed):
    # In the virtual environment inside the repository of another project.
    assert commit() == "none"
    (installed.parent / ".git").rename(installed / ".git")
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=installed, capture_output=True, text=True, check=True
    )
    assert commit() == f"{done.stdout.strip()}-dirty"


def test_without_git(installed, monkeypatch):
    (installed.parent / ".git").rename(installed / ".git")
    monkeypatch.setenv("PATH", str(Path(installed, "nothing")))
    assert commit() == "unknown (git is not installed)"
