# SPDX-License-Identifier: Apache-2.0
"""A network of one's own, as a user runs the example."""

import json

import pytest

from .commands import ROOT, run


pytestmark = pytest.mark.medium


def test_a_network_of_ones_own_travels(tmp_path):
    out = tmp_path / "out"
    said = run("examples/own_network/run.py", "--output_dir", out, "--epochs", 6, "--head_epochs", 3)
    assert "verdict: attach" in said
    assert "loaded elsewhere, without hf_sidenet: " in said
    assert (out / "net.py").read_bytes() == (ROOT / "examples/own_network/net.py").read_bytes()
    assert list(json.loads((out / "config.json").read_text())["mainnet_code"]["files"]) == ["net.py"]
