# SPDX-License-Identifier: Apache-2.0
import csv
import os
from dataclasses import replace

import pytest
import torch

from hf_sidenet.evaluation import ExitReport, cheapest
from hf_sidenet.measurement import ExitCosts, ExitRecords


COSTS = ExitCosts(
    params=[10, 44],
    flops=[1e6, 4.4e6],
    milliseconds=[0.5, 1.25],
    mainnet_params=1234,
    mainnet_flops=4e6,
    mainnet_milliseconds=1.0,
    num_threads=2,
    device="cpu",
)
THREE = replace(COSTS, params=[10, 20, 44], flops=[1e6, 2e6, 4.8e6], milliseconds=[0.5, 0.75, 1.25])


def records(*rows):
    """One row each: `[(confidence, is right) of every exit]`, of two classes; the label is 0."""
    exits = [[torch.tensor([p, 1 - p] if right else [1 - p, p]).log() for p, right in row] for row in rows]
    exit_logits = torch.stack([torch.stack(row) for row in exits])
    return ExitRecords(exit_logits, torch.zeros(len(rows), dtype=torch.long), exit_logits[:, -1].clone())


SURE, UNSURE, WRONG = (0.95, True), (0.65, True), (0.65, False)
MAIN, FAIL = (0.99, True), (0.99, False)
# The SideNet is right at confidence 0.95 and wrong at 0.65. MainNet: 3 of 4.
VALIDATION = records([SURE, MAIN], [SURE, MAIN], [WRONG, MAIN], [SURE, FAIL])
# Here it is the reverse: θ = 0.5 would be best.
TEST = records([(0.95, False), MAIN], [UNSURE, MAIN], [UNSURE, MAIN], [UNSURE, MAIN], [UNSURE, FAIL])
THETAS = [0.5, 0.8]


def report(validation=VALIDATION, **kwargs):
    return ExitReport.from_records(TEST, COSTS, validation, **{"thresholds": THETAS, **kwargs})


def test_by_hand():
    made = report()
    assert [point.thresholds for point in made.points] == [[0.5], [0.8], [1.0]]
    # MainNet 4/5; alone, the SideNet is right on all but the first; at 0.8 only that first row exits early.
    assert [point.accuracy for point in made.fixed] == pytest.approx([0.8, 0.8])
    assert [point.accuracy for point in made.points] == pytest.approx([0.8, 0.6, 0.8])
    assert [point.shares for point in made.points] == [[1.0, 0.0], pytest.approx([0.2, 0.8]), [0.0, 1.0]]
    assert [point.flops for point in made.points] == pytest.approx([0.25, 0.25 * 0.2 + 1.1 * 0.8, 1.1])
    assert (made.num_validation_rows, made.max_accuracy_drop, made.singles) == (4, 0.005, [])


def test_the_threshold_is_chosen_on_validation_rows_alone():
    # Validation: θ = 0.5 gives 3/4 like the MainNet, with all rows exiting: it is the cheapest there.
    made = report()
    assert made.chosen == made.points[0]
    # With one more row that only the MainNet gets right, θ = 0.5 loses too much and 0.8 is chosen, the worst on test.
    harder = records([SURE, MAIN], [SURE, MAIN], [WRONG, MAIN], [WRONG, MAIN], [SURE, FAIL])
    made = report(harder)
    assert made.chosen == made.points[1]
    assert made.chosen.accuracy == pytest.approx(0.6)
    # All test answers flipped: the numbers change, the choice does not.
    turned = ExitRecords(-TEST.exit_logits, TEST.labels, -TEST.mainnet_logits)
    again = ExitReport.from_records(turned, COSTS, harder, thresholds=THETAS)
    assert again.chosen.thresholds == made.chosen.thresholds
    assert again.chosen.accuracy == pytest.approx(0.4)


def test_a_larger_drop_allows_a_cheaper_threshold():
    harder = records([SURE, MAIN], [SURE, MAIN], [WRONG, MAIN], [WRONG, MAIN], [SURE, FAIL])
    assert report(harder, max_accuracy_drop=0.1).chosen.thresholds == [0.8]
    # MainNet 4/5, all at the SideNet 3/5: the drop is exactly 0.2.
    assert report(harder, max_accuracy_drop=0.2).chosen.thresholds == [0.5]


def test_a_drop_as_large_as_allowed_is_allowed():
    # MainNet 8/10, SideNet 7/10. In floating point 0.8 - 0.1 > 0.7.
    rows = records(*[[SURE, MAIN]] * 7, [WRONG, MAIN], *[[WRONG, FAIL]] * 2)
    assert 0.8 - 0.1 > 0.7
    assert cheapest(rows, COSTS, [0.5, 1.0], 0.1) == 0.5
    assert cheapest(rows, COSTS, [0.5, 1.0], 0.099) == 1.0


def test_where_no_sidenet_is_good_enough_nobody_leaves():
    made = report(records([(0.95, False), MAIN], [(0.95, False), MAIN]))
    assert made.chosen.thresholds == [1.0]
    assert made.chosen.shares == [0.0, 1.0]


def test_each_of_several_sidenets_alone():
    rows = [[SURE, SURE, MAIN], [WRONG, SURE, MAIN], [SURE, WRONG, MAIN]]
    made = ExitReport.from_records(records(*rows), THREE, records(*rows), thresholds=THETAS)
    assert [point.thresholds for point in made.singles] == [[0.8, 1.0], [1.0, 0.8]]
    assert [point.shares for point in made.singles] == [
        pytest.approx([2 / 3, 0, 1 / 3]),
        pytest.approx([0, 2 / 3, 1 / 3]),
    ]
    # One θ for all: two rows exit at SideNet 0, one at SideNet 1.
    assert made.chosen.thresholds == [0.8, 0.8]
    assert made.chosen.flops == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert made.text().endswith(
        "Each SideNet in use alone, θ chosen on the validation rows:\n\n"
        "| θ | accuracy % | exit 0 % | exit 1 % | MainNet % | params | FLOPs | ms |\n"
        "| :-- | --: | --: | --: | --: | --: | --: | --: |\n"
        "| 0.8/1 | 100.00 | 66.7 | 0.0 | 33.3 | 0.017 | 0.567 | 0.750 |\n"
        "| 1/0.8 | 100.00 | 0.0 | 66.7 | 33.3 | 0.023 | 0.733 | 0.917 |"
    )


def test_without_validation_rows_nothing_is_chosen():
    made = report(None)
    assert (made.chosen, made.singles, made.num_validation_rows) == (None, [], 0)
    assert len(made.points) == 3
    assert made.summary() == "5 rows, no others to choose θ on."


def test_summary_and_text_by_hand():
    made = report()
    assert made.summary() == (
        "θ = 0.5, chosen on 4 validation rows for at most 0.5% less accuracy: on 5 test rows 80.00 % instead of "
        "80.00 %, with 0.25 of the MainNet's FLOPs, 0.01 of its parameters and 0.50 of its milliseconds per row."
    )
    parts = made.text().split("\n\n")
    assert parts[0] == made.summary()
    assert parts[1] == "MainNet alone: 1,234 parameters, 4.0 MFLOP and 1.000 ms per row (2 threads, cpu)."
    assert parts[2] == "Fixed answers:"
    assert "| MainNet alone | 80.00 | 0.0 | 100.0 | 1.000 | 1.000 | 1.000 |" in parts[3]
    assert parts[4] == "Routed, one θ for all SideNets:"
    assert "| 0.8 | 60.00 | 20.0 | 80.0 | 0.030 | 0.930 | 1.100 |" in parts[5]
    assert len(parts) == 6


def test_saved_files(tmp_path):
    pytest.importorskip("matplotlib")
    made, folder = report(), tmp_path / "new" / "folder"
    made.save(folder, "A title")
    assert sorted(os.listdir(folder)) == ["accuracy_cost.png", "report.md", "sweep.csv", "test_records.safetensors"]
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# A title\n\n- command: `python ")
    assert made.text() in page
    assert page.endswith("![accuracy against cost](accuracy_cost.png)\n")
    with open(folder / "sweep.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["MainNet alone", "SideNet 0 alone", "", "", ""]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([0.8, 0.8, 0.8, 0.6, 0.8])
    assert torch.equal(ExitRecords.load(folder / "test_records.safetensors").exit_logits, TEST.exit_logits)
    (folder / "report.md").write_text("old")
    made.save(folder, "A title")
    assert (folder / "report.md").read_text(encoding="utf-8") == page
    assert len(os.listdir(folder)) == 4


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    (tmp_path / "report.md").write_text("old")
    # A lone surrogate cannot be encoded.
    monkeypatch.setattr("hf_sidenet.evaluation.report.provenance", lambda: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        report().save(tmp_path, "A title")
    assert (tmp_path / "report.md").read_text() == "old"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("drop", [-0.1, float("nan")])
def test_an_impossible_drop_is_refused(drop):
    with pytest.raises(ValueError, match=f"`max_accuracy_drop` must be ≥ 0, got {drop}"):
        report(max_accuracy_drop=drop)


def test_an_impossible_threshold_is_refused():
    with pytest.raises(ValueError, match="`thresholds`"):
        report(thresholds=[-1.0])


def test_no_good_threshold_is_refused():
    rows = records([WRONG, MAIN], [WRONG, MAIN], [SURE, MAIN])
    with pytest.raises(ValueError, match=r"`candidates` .* accuracy ≥ 0\.9.* got at most 0\.33"):
        cheapest(rows, COSTS, [0.0, 0.5], 0.05)
    # The classifier to compare with may be better than the MainNet inside.
    better = ExitRecords(TEST.exit_logits, TEST.labels, torch.tensor([[1.0, 0.0]] * 5))
    with pytest.raises(ValueError, match=r"usually 1\.0, got at most 0\.8"):
        report(better, max_accuracy_drop=0.1)
