# SPDX-License-Identifier: Apache-2.0
import pytest

from hf_sidenet.attaching.checkpoint import load_checkpoint

from ..hub.folder import save_folder


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A tiny model with SideNets and its tokenizer, and a cache of its own."""
    monkeypatch.setattr("hf_sidenet.attaching.checkpoint.default_cache", lambda: tmp_path / "cache")
    return load_checkpoint(save_folder(tmp_path / "checkpoint", temperatures=[1.0, 1.0, 1.7]), check=False)
