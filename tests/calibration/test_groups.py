# SPDX-License-Identifier: Apache-2.0
"""Rows that come in groups: groups count, not rows."""

import pytest
import torch

from hf_sidenet.calibration import (
    TooFewRowsError,
    betting,
    calibrate,
    check_evidence,
    paired_differences,
    parse_targets,
)
from hf_sidenet.calibration.targets import TARGETS
from hf_sidenet.calibration.targets.target import group_means
from hf_sidenet.measurement import replay

from .cases import costs, records


ABOUT = {
    "precision": "float32", "reference": "given", "seed": 0, "certification_fraction": 0.75,
    "validation_fingerprint": "ab", "num_calibrations": 1,
}  # fmt: skip


def test_means_by_hand():
    means = group_means(torch.tensor([1, 0, -1, 1, 1]), torch.tensor([0, 1, 0, 1, 2]))
    assert means.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", ["accuracy_drop", "disagreement", "selective_error"])
def test_groups_of_one_row_are_rows(name):
    rows, theta, temperatures = records(600), [0.9, 0.9], [1.0] * 3
    found = TARGETS[name](0.2).measure(rows, rows.route(theta, temperatures), "paired", torch.arange(600))
    plain = TARGETS[name](0.2).measure(rows, rows.route(theta, temperatures), "betting")
    assert found.estimate == pytest.approx(plain.estimate)
    assert (found.num_rows, found.num_bad, found.num_helped) == (plain.num_rows, plain.num_bad, plain.num_helped)
    if name == "accuracy_drop":
        differences = paired_differences(rows, replay(rows.exit_logits, theta, temperatures))
        assert found.p_value == plain.p_value == betting(differences, 0.2)


def test_copies_of_rows_certify_no_more_than_the_rows():
    rows, theta, temperatures = records(300), [0.8, 0.8], [1.0] * 3
    copies = rows.select(torch.arange(300).repeat_interleave(4))
    groups = torch.arange(300).repeat_interleave(4)
    for name in ("accuracy_drop", "disagreement", "selective_error"):
        once = TARGETS[name](0.2).measure(rows, rows.route(theta, temperatures), "paired", torch.arange(300))
        again = TARGETS[name](0.2).measure(copies, copies.route(theta, temperatures), "paired", groups)
        assert again.p_value == pytest.approx(once.p_value)
        assert again.estimate == pytest.approx(once.estimate)


@pytest.mark.parametrize("target", ["accuracy_drop<=0.05", "disagreement<=0.2", "selective_error<=0.2"])
def test_calibrate_counts_groups(target):
    design, certification, targets = records(500, seed=1), records(3000), parse_targets(target)
    # As names of documents, of which every one has three rows.
    groups = [f"document {i // 3}" for i in range(3000)]
    made = calibrate(design, certification, costs(), targets, groups=groups)
    assert made.num_groups == 1000
    evidence = made.evidence(**ABOUT)
    assert (evidence["num_groups"], evidence["test"], evidence["num_certification_rows"]) == (1000, "betting", 3000)
    check_evidence(evidence)
    assert evidence["targets"][0]["p_value"] <= 0.05


def test_too_few_groups_are_too_few_rows():
    design, certification, targets = records(500, seed=1), records(3000), parse_targets("accuracy_drop<=0.01")
    needed = targets[0].needed_rows(0.05, grouped=True)
    assert needed == targets[0].needed_rows(0.05, "betting")
    with pytest.raises(TooFewRowsError, match=f"needs at least {needed} groups of certification rows .* got 30"):
        calibrate(design, certification, costs(), targets, groups=[i // 100 for i in range(3000)])


@pytest.mark.parametrize("groups", [[1, 2], "abc", []])
def test_every_row_has_a_group(groups):
    with pytest.raises(ValueError, match="`groups` must name the group of every certification row, got"):
        calibrate(records(100, seed=1), records(300), costs(), parse_targets("accuracy_drop<=0.1"), groups=groups)


def test_the_guarantee_of_groups_is_true():
    """Of groups in which all rows are harmed or none, the risk is that of groups."""
    limit, violations, runs = 0.1, 0, 200
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        harmed = (torch.rand(80, generator=generator) < limit).double()
        violations += betting(harmed, limit) <= 0.05
    assert violations <= 17
