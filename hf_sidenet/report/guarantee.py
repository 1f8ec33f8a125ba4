# SPDX-License-Identifier: Apache-2.0
"""The evidence behind θ as text: what is guaranteed, on what grounds, and what is not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..calibration import Budget, Risk, Target, level_of_all, parse_targets
from ..io.tables import markdown_table


TESTS = {
    "paired": "an exact test of paired proportions (harmed and helped rows)",
    "binomial": "an exact binomial test",
    "betting": "a betting test of the paired differences",
    "groups": "a betting test of the means of {:,} groups of rows",
}
REFERENCES = {
    "given": "the MainNet as it was given",
    "tuned": "the MainNet as it was tuned",
    "stored": "the MainNet of the checkpoint that this one was made from",
    "other": "another classifier",
}
# Heading in a card with a guarantee.
GUARANTEE = "## Guarantee"


def reference_name(evidence: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the classifier that risks are measured against, as the subject of a sentence."""
    if evidence["reference"] == "other":
        return "another classifier, named when θ was set,"
    if evidence["reference"] == "stored":
        tuned = ", after joint fine-tuning," if settings["tune"] == "joint" else ""
        return f"the MainNet before it was cast, in {evidence['reference_precision']}{tuned or ','}"
    if settings["tune"] != "joint":
        return "the MainNet"
    if evidence["reference"] == "given":
        return "the MainNet as it was given, before it was fine-tuned together with the SideNets,"
    return "the MainNet of this checkpoint, after joint fine-tuning,"


def other_precision(evidence: Mapping[str, Any]) -> bool:
    """Return whether the reference answered in another precision than this checkpoint."""
    return evidence.get("reference_precision", evidence["precision"]) != evidence["precision"]


def guarantee_text(evidence: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return a section in Markdown, with its heading.

    Args:
        evidence (`Mapping[str, Any]`): [`SideNetConfig.calibration`].
        settings (`Mapping[str, Any]`): settings of the report.
    """
    risks, budgets = _found(evidence)
    if not risks:
        return _no_guarantee(evidence, budgets)
    reference = reference_name(evidence, settings)
    parts = [GUARANTEE, f"**{_sentence(evidence, [target for target, _ in risks])}**"]
    parts += [f"The {target.words} is {target.meaning.format(reference=reference)}." for target, _ in risks]
    if other_precision(evidence):
        parts.append(
            f"Certified in {evidence['precision']} against the {evidence['reference_precision']} classifier: the "
            "effect of rounding on the answers is part of the risk."
        )
    if settings["tune"] == "joint":
        parts.append(
            f"Reference: the risks are measured against {reference.rstrip(',')}, not against any other classifier."
        )
    parts += [_table(evidence, risks), _method(evidence)]
    if budgets:
        parts.append(f"{_names(budgets)}: kept on the certification rows, but not guaranteed.")
    return "\n\n".join([*parts, "### What it does not say", _limits(evidence)])


def guarantee_summary(evidence: Mapping[str, Any], not_certified: str | None = None) -> list[str]:
    """Return the guarantee in a few sentences, for a terminal.

    Args:
        evidence (`Mapping[str, Any]`): [`SideNetConfig.calibration`].
        not_certified (`str`, *optional*): why the evidence does not apply to the checkpoint at hand.
    """
    if not_certified is not None:
        return [f"Not certified: {not_certified}. hf-sidenet recalibrate finds θ with a guarantee."]
    risks, budgets = _found(evidence)
    sentences = []
    if risks:
        sentence = _sentence(evidence, [target for target, _ in risks])
        sentences.append(
            f"Guarantee: {sentence[:1].lower()}{sentence[1:]} {_measured_against(evidence)} Nothing is promised per "
            "class, per slice or after a shift."
        )
        found = "; ".join(
            f"{target}: {_number(entry['estimate'])} on {entry['num_rows']:,} rows ({entry['num_bad']:,} bad, "
            f"{entry['num_helped']:,} helped), p = {entry['p_value']:.3g}"
            for target, entry in risks
        )
        sentences.append(
            f"Evidence: {found}. Test: {evidence['test']}; {evidence['num_points_tested']:,} points of θ were tested, "
            f"on a path from {evidence['num_design_rows']:,} other rows."
        )
    if budgets:
        names = ", ".join(map(str, budgets))
        sentences.append(f"Kept on the certification rows, not guaranteed: {names}.")
    again = evidence.get("num_calibrations", 1)
    if risks and again > 1:
        level = level_of_all(again, evidence["confidence_level"])
        sentences.append(
            f"Caution: these rows have now seen {again} different calibrations. Each holds with its probability; all "
            f"of them together, if they were planned beforehand, with probability ≥ {level:.3g}. Keeping the best of "
            "them has no guarantee."
        )
    return sentences


def _found(evidence: Mapping[str, Any]) -> tuple[list[tuple[Risk, Mapping[str, Any]]], list[Budget]]:
    """Return the guaranteed targets, each with its evidence, and the budgets."""
    found = [(parse_targets(entry["target"])[0], entry) for entry in evidence["targets"]]
    risks = [(target, entry) for target, entry in found if isinstance(target, Risk)]
    return risks, [target for target, _ in found if isinstance(target, Budget)]


def _sentence(evidence: Mapping[str, Any], risks: Sequence[Risk]) -> str:
    """Return the guarantee as a sentence."""
    claims = " and ".join(target.claim.format(limit=f"{target.limit:g}") for target in risks)
    together = ", all of it together" if len(risks) > 1 else ""
    return (
        f"With probability ≥ {evidence['confidence_level']:g} over the {evidence['num_certification_rows']:,} "
        f"certification rows, {claims} on the distribution those rows came from, for this checkpoint, θ and precision "
        f"({evidence['precision']}){together}."
    )


def _table(evidence: Mapping[str, Any], risks: list[tuple[Risk, Mapping[str, Any]]]) -> str:
    header = ["target", "estimate", "rows", "harmed or wrong", "helped", "p-value", "at most", "test"]
    rows = [
        [
            f"`{target}`",
            f"{entry['estimate']:.4f}",
            f"{entry['num_rows']:,}",
            f"{entry['num_bad']:,}",
            f"{entry['num_helped']:,}" if target.has_test else "–",
            f"{entry['p_value']:.3g}",
            f"{evidence['level_per_target']:.3g}",
            _test(evidence, target),
        ]
        for target, entry in risks
    ]
    return markdown_table(header, rows, left=(0, 7))


def _test(evidence: Mapping[str, Any], target: Risk) -> str:
    is_named = target.has_test or evidence.get("num_groups") is not None
    return evidence["test"] if is_named else "binomial"


def _method(evidence: Mapping[str, Any]) -> str:
    return (
        f"{evidence['method']}, by {_named_test(evidence)}, chosen beforehand. The path of thresholds and the "
        f"temperatures come from {evidence['num_design_rows']:,} design rows; {evidence['num_certification_rows']:,} "
        f"other rows certify and are used for nothing else{_repeated(evidence)}. "
        f"{evidence['num_points_tested']:,} points of the path were tested, in their order, up to the first that "
        "failed, if any. Number of calibrations that these rows have seen, including this one, as counted where it "
        f"was made: {evidence['num_calibrations']:,}."
    )


def _named_test(evidence: Mapping[str, Any]) -> str:
    if evidence.get("num_groups") is not None:
        return TESTS["groups"].format(evidence["num_groups"])
    return TESTS[evidence["test"]]


def _repeated(evidence: Mapping[str, Any]) -> str:
    left_out, repeated = evidence.get("num_known_rows_left_out"), evidence.get("repeated_rows")
    if left_out:
        return f", after {left_out:,} that were also training or design rows were left out"
    if not repeated or not repeated["num_repeated"]:
        return ""
    share = repeated["num_repeated"] / repeated["num_rows"]
    trusted = "; whether they were trained on was not tested" if repeated["trusted"] else ""
    return (
        f" ({share:.1%} of them repeat a training or design row, as {repeated['expected']:.1%} of fresh rows are "
        f"expected to{trusted})"
    )


def _limits(evidence: Mapping[str, Any]) -> str:
    count = evidence["num_calibrations"]
    again = (
        "- Calibrating repeatedly on the same rows and keeping the best is multiple testing, which the sentence "
        "above does not cover."
    )
    if count > 1:
        level = level_of_all(count, evidence["confidence_level"])
        again += (
            f" These rows have seen {count:,} calibrations: if they were planned beforehand, all of them hold with "
            f"probability ≥ {level:.3g}; if they were not, no probability can be stated."
        )
    return "\n".join(
        [
            "- Nothing about a single class or any other slice of the rows: it is a mean over all of them.",
            "- Nothing after a shift: rows of another kind, from another source or time.",
            f"- Nothing in any precision other than {evidence['precision']}, for other thresholds or temperatures, "
            "for weights that were changed afterward, or for rows prepared in another way.",
            "- Nothing about the test rows or any other particular rows: a sample may exceed the limit.",
            "- Nothing about how good the reference is, and nothing about costs, which are measured.",
            again,
        ]
    )


def _no_guarantee(evidence: Mapping[str, Any], budgets: list[Budget]) -> str:
    return (
        f"## No guarantee\n\n**Nothing is guaranteed for this checkpoint: neither its accuracy nor its costs.** The "
        f"target was {_names(budgets)}. The thresholds are the most accurate ones within it on "
        f"{evidence['num_certification_rows']:,} rows, which were used to choose them, so what was measured on these "
        f"rows is optimistic. {evidence['num_points_tested']:,} points were evaluated; they and the "
        f"temperatures come from {evidence['num_design_rows']:,} other rows, in {evidence['precision']}. For a "
        "guarantee, calibrate for `accuracy_drop`, `selective_error` or `disagreement`."
    )


def _names(targets: Sequence[Target]) -> str:
    return ", ".join(f"`{target}`" for target in targets)


def _measured_against(evidence: Mapping[str, Any]) -> str:
    reference = REFERENCES.get(evidence.get("reference", ""), "the MainNet inside")
    precision, compared = evidence.get("precision"), evidence.get("reference_precision")
    if precision == compared or compared is None:
        return f"Measured against {reference}."
    if evidence["reference"] == "other":
        return f"Certified in {precision} against {reference}, in {compared}."
    return f"Certified in {precision} against the {compared} classifier, {reference}."


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value + 0.0:.4f}"
