# SPDX-License-Identifier: Apache-2.0
"""The table and the picture of several runs, as a user prints them."""

import json

import torch

from hf_sidenet import ExitRecords
from hf_sidenet.evaluation import ExitReport
from hf_sidenet.measurement import ExitCosts

from .commands import ROOT, run


COSTS = ExitCosts([2, 3, 5], [1.0, 2.0, 4.0], [1.0, 1.5, 2.5], 4, 4.0, 2.0, 1, "cpu")


def records():
    """Ten rows: the first SideNet is right on 6, the second on 8, the MainNet on all; the wrong ones are unsure."""
    labels = torch.zeros(10, dtype=torch.long)
    exit_logits = torch.zeros(10, 3, 2)
    for exit_index, right in enumerate((6, 8, 10)):
        exit_logits[:right, exit_index, 0] = 5.0
        exit_logits[right:, exit_index, 1] = 0.5
    return ExitRecords(exit_logits, labels, exit_logits[:, -1].clone())


def test_a_run_with_two_sidenets_beside_a_mainnet_cut_short(tmp_path):
    both, cut = tmp_path / "both", tmp_path / "cut-1"
    report = ExitReport.from_records(records(), COSTS, records(), thresholds=[0.0, 0.9], max_accuracy_drop=0.0)
    report.save(both, "made by hand")
    config = {"exit_layers": [1, 2], "thresholds": report.chosen.thresholds}
    (both / "config.json").write_text(json.dumps(config))
    cut.mkdir()
    (cut / "config.json").write_text(json.dumps({"num_hidden_layers": 1}))
    (cut / "test_results.json").write_text(json.dumps({"test_accuracy": 0.55}))
    script = ROOT / "examples" / "text_classification" / "compare_runs.py"
    lines = run(script, tmp_path / "picture.png", both, cut).splitlines()
    # 6 of 10 rows leave at SideNet 0: (6 · 1 + 4 · 4) / 10 of the MainNet's 4; 8 at SideNet 1: (8 · 2 + 2 · 4) / 10.
    assert lines[2:] == [
        "| both | 1 | 60.00 | 0.9 | 100.00 | 100.00 | 0.80 | 0.55 | 0.80 |",
        "| both | 2 | 80.00 | 0.9 | 100.00 | 100.00 | 0.85 | 0.60 | 0.85 |",
        "| cut-1 | - | - | - | - | 55.00 | - | - | - |",
    ]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
