# SPDX-License-Identifier: Apache-2.0
import pytest

from hf_sidenet.report.guarantee import guarantee_text


HEADS = {"tune": "heads", "reference": "given"}
DROP = {
    "target": "accuracy_drop<=0.01", "estimate": 0.0031, "p_value": 0.0123, "num_rows": 1290, "num_bad": 9,
    "num_helped": 5,
}  # fmt: skip
OTHER = {"target": "disagreement<=0.02", "estimate": 0.01, "p_value": 0.02, "num_rows": 1290, "num_bad": 13,
         "num_helped": 0}  # fmt: skip


def evidence(*targets, **kwargs):
    fields = {
        "method": "Learn-then-Test, fixed-sequence testing",
        "targets": list(targets),
        "confidence_level": 0.95,
        "level_per_target": 0.05,
        "test": "paired",
        "num_design_rows": 320,
        "num_certification_rows": 1290,
        "num_points_tested": 44,
        "reference": "given",
        "num_calibrations": 1,
        "precision": "float32",
    }
    return {**fields, **kwargs}


def test_the_guarantee_in_one_sentence():
    text = guarantee_text(evidence(DROP), HEADS)
    assert text.startswith(
        "## Guarantee\n\n**With probability ≥ 0.95 over the 1,290 certification rows, the accuracy drop is ≤ 0.01 on "
        "the distribution those rows came from, for this checkpoint, θ and precision (float32).**\n\n"
        "The accuracy drop is P(the MainNet is right) − P(this model is right).\n\n"
    )
    assert "| `accuracy_drop<=0.01` | 0.0031 | 1,290 | 9 | 5 | 0.0123 | 0.05 | paired |" in text
    assert "exact test of paired proportions" in text
    assert "320 design rows; 1,290 other rows certify" in text
    assert "44 points of the path were tested" in text
    assert "as counted where it was made: 1." in text
    assert "left out" not in text


def test_what_it_does_not_say():
    limits = guarantee_text(evidence(DROP), HEADS).partition("### What it does not say\n\n")[2]
    words = ("single class", "slice", "after a shift", "any precision other than float32", "other thresholds")
    for word in (*words, "test rows", "costs", "repeatedly on the same rows"):
        assert word in limits
    assert "have seen" not in limits


def test_several_targets_share_the_level():
    text = guarantee_text(evidence(DROP, OTHER, level_per_target=0.025), HEADS)
    assert (
        "the accuracy drop is ≤ 0.01 and the share of rows that it answers differently is ≤ 0.02 on the distribution "
        "those rows came from, for this checkpoint, θ and precision (float32), all of it together.**"
    ) in text
    assert "| `disagreement<=0.02` | 0.0100 | 1,290 | 13 | – | 0.02 | 0.025 | binomial |" in text
    assert "probability that this model and the MainNet answer differently" in text


def test_rows_that_were_calibrated_on_before():
    text = guarantee_text(evidence(DROP, num_calibrations=3), HEADS)
    assert "as counted where it was made: 3." in text
    assert "These rows have seen 3 calibrations" in text
    assert "probability ≥ 0.85;" in text
    assert "probability ≥ 0;" in guarantee_text(evidence(DROP, num_calibrations=30), HEADS)


def test_rows_that_repeat_others():
    repeated = {"num_rows": 1290, "num_repeated": 129, "expected": 0.0912, "trusted": False}
    text = guarantee_text(evidence(DROP, repeated_rows=repeated), HEADS)
    assert (
        "used for nothing else (10.0% of them repeat a training or design row, as 9.1% of fresh rows are "
        "expected to). 44 points"
    ) in text
    trusted = guarantee_text(evidence(DROP, repeated_rows={**repeated, "trusted": True}), HEADS)
    assert "are expected to; whether they were trained on was not tested)" in trusted
    none = guarantee_text(evidence(DROP, repeated_rows={**repeated, "num_repeated": 0}), HEADS)
    assert none == guarantee_text(evidence(DROP), HEADS)


def test_groups_of_rows():
    text = guarantee_text(evidence(DROP, num_groups=1200, test="betting"), HEADS)
    assert "by a betting test of the means of 1,200 groups of rows, chosen" in text


def test_rows_that_earlier_versions_left_out():
    assert "after 7 that were also training or design rows" in guarantee_text(
        evidence(DROP, num_known_rows_left_out=7), HEADS
    )


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("given", "the MainNet as it was given, before it was fine-tuned together with the SideNets"),
        ("tuned", "the MainNet of this checkpoint, after joint fine-tuning"),
    ],
)
def test_after_joint_training_the_reference_is_named(reference, words):
    text = guarantee_text(evidence(DROP, reference=reference), {"tune": "joint", "reference": reference})
    assert f"P({words}, is right) − P(this model is right)" in text
    assert f"Reference: the risks are measured against {words}, not against any other classifier." in text


def test_a_budget_guarantees_nothing():
    text = guarantee_text(
        evidence({"target": "flops<=0.5"}, method="none", confidence_level=None, level_per_target=None), HEADS
    )
    assert text.startswith("## No guarantee\n\n**Nothing is guaranteed for this checkpoint: neither its accuracy nor")
    assert "`flops<=0.5`" in text
    assert "With probability" not in text


def test_a_budget_beside_a_guarantee():
    text = guarantee_text(evidence(DROP, {"target": "flops<=0.5"}), HEADS)
    assert "`flops<=0.5`: kept on the certification rows, but not guaranteed." in text
    assert text.startswith("## Guarantee")


CAST = {"precision": "bfloat16", "reference": "stored", "reference_precision": "float32"}


def test_another_precision_is_held_against_the_classifier_as_it_was():
    text = guarantee_text(evidence(DROP, **CAST), HEADS)
    assert "for this checkpoint, θ and precision (bfloat16)." in text
    assert "P(the MainNet before it was cast, in float32, is right) − P(this model is right)" in text
    assert "Certified in bfloat16 against the float32 classifier" in text
    assert "Nothing in any precision other than bfloat16" in text


def test_another_precision_after_joint_training():
    text = guarantee_text(evidence(DROP, **CAST), {"tune": "joint", "reference": "tuned"})
    name = "the MainNet before it was cast, in float32, after joint fine-tuning"
    assert f"P({name}, is right)" in text
    assert f"measured against {name}, not against any other classifier." in text


def test_the_same_precision_is_not_told_apart():
    assert "Certified in" not in guarantee_text(evidence(DROP, reference_precision="float32"), HEADS)
    assert "Certified in" not in guarantee_text(evidence(DROP), HEADS)
