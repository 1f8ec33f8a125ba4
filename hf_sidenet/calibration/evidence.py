# SPDX-License-Identifier: Apache-2.0
"""Check the evidence behind θ in `config.json` before reporting what it guarantees."""

import math
from collections.abc import Mapping
from typing import Any

from ..io.fields import Rule, check_fields, is_count, is_list, is_number, is_object, is_text
from .pvalues import TESTS
from .targets import Risk, parse_targets


REFERENCES = ("given", "tuned", "inside", "stored", "other")

COUNT = "an integer ≥ 0"


def check_evidence(evidence: Mapping[str, Any]) -> None:
    """Reject evidence that is damaged or contradicts itself.

    Args:
        evidence (`Mapping[str, Any]`): `calibration` of a [`SideNetConfig`].

    Raises:
        ValueError: it is; the message names the field of `config.json`.
    """
    check_fields(evidence, RULES, "config.json, `calibration`")
    guaranteed = any("p_value" in entry for entry in evidence["targets"])
    if guaranteed and evidence["confidence_level"] is None:
        raise ValueError(
            "config.json, `calibration`: `confidence_level` must be a number in (0, 1) if a target has a `p_value`, "
            "got None."
        )
    wrong = contradiction(evidence)
    if wrong is None and evidence.get("retrained") and evidence.get("sidenet_precision") is None:
        wrong = "SideNets were retrained, in no `sidenet_precision`"
    if wrong is not None:
        raise ValueError(f"config.json, `calibration`: must not contradict itself, but {wrong}.")


def contradiction(evidence: Mapping[str, Any]) -> str | None:
    """Return a contradiction between the numbers of some evidence, or `None`.

    Levels, estimates and p-values are recomputed from the counts. p-values of a betting test depend on every row, so
    they only have to be small enough; the same holds for all p-values without scipy.

    Args:
        evidence (`Mapping[str, Any]`): evidence whose fields are valid, see [`check_evidence`].
    """
    entries = [(parse_targets(entry["target"])[0], entry) for entry in evidence["targets"] if "p_value" in entry]
    # [`check_evidence`] allows a p-value only for risks.
    risks = [(target, entry) for target, entry in entries if isinstance(target, Risk)]
    if not risks:
        return None
    level = (1 - evidence["confidence_level"]) / len(risks)
    if not math.isclose(evidence["level_per_target"] or 0.0, level, rel_tol=1e-6):
        return f"its level per target is {evidence['level_per_target']}, but the other fields imply {level:.6g}"
    for target, entry in risks:
        name, rows, p_value = entry["target"], entry["num_rows"], entry["p_value"]
        if rows > evidence["num_certification_rows"]:
            return f"{name} counts {rows} rows of {evidence['num_certification_rows']}"
        if p_value > level:
            return f"{name} has a p-value of {p_value:.3g}, which is above its level of {level:.3g}"
        if evidence.get("num_groups") is not None:
            continue
        estimate = (entry["num_bad"] - entry["num_helped"]) / rows if rows else math.nan
        if entry["estimate"] is None or not math.isclose(entry["estimate"], estimate, rel_tol=1e-6, abs_tol=1e-9):
            return f"{name} is estimated at {entry['estimate']}, but its counts give {estimate:.6g}"
        try:
            expected = target.p_value(entry["num_bad"], entry["num_helped"], rows, evidence["test"])
        except ImportError:
            expected = None
        if expected is not None and not math.isclose(p_value, expected, rel_tol=1e-2, abs_tol=1e-9):
            return f"{name} has a p-value of {p_value:.3g}, but its counts give {expected:.3g}"
    return None


def _is_target(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("target"), str):
        return False
    try:
        (target,) = parse_targets(value["target"])
    except ValueError:
        return False
    if not target.is_risk:
        return "p_value" not in value
    estimate, p_value = value.get("estimate"), value.get("p_value")
    return (
        "estimate" in value
        and (estimate is None or is_number(estimate))
        and is_number(p_value)
        and 0 <= p_value <= 1
        and all(is_count(value.get(name)) for name in ("num_rows", "num_bad", "num_helped"))
        and value["num_bad"] + value["num_helped"] <= value["num_rows"]
    )


def _is_repeated(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(is_count(value.get(name)) for name in ("num_rows", "num_repeated"))
        and 0 < value["num_rows"] >= value["num_repeated"]
        and is_number(value.get("expected"))
        and isinstance(value.get("trusted"), bool)
    )


def _between_0_and_1(value: Any) -> bool:
    return is_number(value) and 0 < value < 1


RULES = {
    "targets": Rule("a list of targets with their evidence", lambda x: is_list(x, _is_target)),
    "confidence_level": Rule("a number in (0, 1) or null", lambda x: x is None or _between_0_and_1(x)),
    "level_per_target": Rule("a number in (0, 1) or null", lambda x: x is None or _between_0_and_1(x)),
    "method": Rule("a string", is_text),
    "test": Rule(f"one of {', '.join(TESTS)}", lambda x: is_text(x) and x in TESTS),
    "num_design_rows": Rule(COUNT, is_count),
    "num_certification_rows": Rule(COUNT, is_count),
    "num_points_tested": Rule(COUNT, is_count),
    "num_groups": Rule(COUNT, is_count, required=False),
    "certification": Rule("an object", is_object),
    "certification.accuracy": Rule("a number in [0, 1]", lambda x: is_number(x) and 0 <= x <= 1),
    "certification.shares": Rule("a list of numbers", lambda x: is_list(x, is_number)),
    **{f"certification.{name}": Rule("a number", is_number) for name in ("params", "flops", "milliseconds")},
    "precision": Rule("a string", is_text),
    "reference": Rule(f"one of {', '.join(REFERENCES)}", lambda x: is_text(x) and x in REFERENCES),
    "reference_precision": Rule("a string", is_text, required=False),
    "sidenet_precision": Rule("a string or null", lambda x: x is None or is_text(x), required=False),
    "retrained": Rule("true or false", lambda x: isinstance(x, bool), required=False),
    "seed": Rule(COUNT, is_count),
    "certification_fraction": Rule("a number in (0, 1)", _between_0_and_1),
    "validation_fingerprint": Rule("a string", is_text),
    "repeated_rows": Rule("an object with counts of rows", _is_repeated, required=False),
    # From earlier versions, which left out rows that were also training or design rows.
    "num_known_rows_left_out": Rule(COUNT, is_count, required=False),
    "num_calibrations": Rule("an integer ≥ 1", lambda x: is_count(x) and x >= 1),
    "look": Rule("a string", is_text, required=False),
    "source_weights": Rule("a string", is_text, required=False),
    "certified": Rule("an object", is_object, required=False),
}
