# SPDX-License-Identifier: Apache-2.0
"""Every test, and every fixture that tests share, starts from the same seed and never asks the Hub."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings


# How busy a machine is decides no test.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    # Fixtures of a whole module or session are made before `_seed` of the first test that asks for them.
    if fixturedef.scope != "function":
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    # Not the user's: tests calibrate the same rows and run the same models again and again.
    monkeypatch.setattr("hf_sidenet.io.cache.HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tiny models: a second thread only waits.
    torch.set_num_threads(1)
