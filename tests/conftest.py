# SPDX-License-Identifier: Apache-2.0
"""Every test starts from the same seed and never asks the Hub."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tiny models: a second thread only waits.
    torch.set_num_threads(1)
