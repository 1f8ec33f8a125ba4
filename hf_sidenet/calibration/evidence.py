# SPDX-License-Identifier: Apache-2.0
"""The evidence behind θ as it stands in `config.json`: checked before anybody is told what it guarantees."""

from collections.abc import Mapping
from typing import Any

from ..measurement.fields import Rule, check_fields, is_count, is_list, is_number, is_object, is_text
from .pvalues import TESTS
from .targets import parse_targets


REFERENCES = ("given", "tuned", "inside", "stored", "other")


def check_evidence(evidence: Mapping[str, Any]) -> None:
    """Refuse evidence that is damaged: what is said of it would be wrong.

    Args:
        evidence (`Mapping[str, Any]`): `calibration` of a [`SideNetConfig`].

    Raises:
        ValueError: names the field of `config.json`.
    """
    check_fields(evidence, RULES, "config.json, `calibration`")
    guaranteed = any("p_value" in entry for entry in evidence["targets"])
    if guaranteed and evidence["confidence_level"] is None:
        raise ValueError(
            "config.json, `calibration`: `confidence_level` must be a number in (0, 1) beside targets that have a "
            "`p_value`, got None."
        )


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


def _between_0_and_1(value: Any) -> bool:
    return is_number(value) and 0 < value < 1


COUNT = "a whole number ≥ 0"
RULES = {
    "targets": Rule("a list of targets with their evidence", lambda x: is_list(x, _is_target)),
    "confidence_level": Rule("a number in (0, 1) or null", lambda x: x is None or _between_0_and_1(x)),
    "level_per_target": Rule("a number in (0, 1) or null", lambda x: x is None or _between_0_and_1(x)),
    "method": Rule("a string", is_text),
    "test": Rule(f"one of {', '.join(TESTS)}", lambda x: is_text(x) and x in TESTS),
    "num_design_rows": Rule(COUNT, is_count),
    "num_certification_rows": Rule(COUNT, is_count),
    "num_points_tested": Rule(COUNT, is_count),
    "certification": Rule("an object", is_object),
    "certification.accuracy": Rule("a number in [0, 1]", lambda x: is_number(x) and 0 <= x <= 1),
    "certification.shares": Rule("a list of numbers", lambda x: is_list(x, is_number)),
    **{f"certification.{name}": Rule("a number", is_number) for name in ("params", "flops", "milliseconds")},
    "precision": Rule("a string", is_text),
    "reference": Rule(f"one of {', '.join(REFERENCES)}", lambda x: is_text(x) and x in REFERENCES),
    "reference_precision": Rule("a string", is_text, required=False),
    "seed": Rule(COUNT, is_count),
    "certification_fraction": Rule("a number in (0, 1)", _between_0_and_1),
    "validation_fingerprint": Rule("a string", is_text),
    "num_known_rows_left_out": Rule(COUNT, is_count),
    "num_calibrations": Rule("a whole number ≥ 1", lambda x: is_count(x) and x >= 1),
    "look": Rule("a string", is_text, required=False),
    "source_weights": Rule("a string", is_text, required=False),
    "certified": Rule("an object", is_object, required=False),
}
