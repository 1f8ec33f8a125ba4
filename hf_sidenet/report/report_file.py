# SPDX-License-Identifier: Apache-2.0
"""`report.json`: what `attach` found, as JSON that every reader takes. Its keys are described in docs/report.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..calibration.evidence import COUNT
from ..io.fields import Rule, check_fields, is_count, is_list, is_map, is_number, is_object, is_text
from ..io.json import json_text
from .metadata import hub_id


REPORT = "report.json"


def report_json(report: Mapping[str, Any]) -> str:
    """A report as text: `null` for NaN and infinite numbers, and no path of the machine that made it.

    Args:
        report (`Mapping[str, Any]`): see [`AttachResult`]; it stays as it is.
    """
    shared = {**report, "mainnet": {**report["mainnet"], "name": hub_id(report["mainnet"]["name"])}}
    return json_text(shared) + "\n"


def load_report(checkpoint: str) -> dict[str, Any]:
    """`report.json` of a checkpoint, empty where it has none.

    Args:
        checkpoint (`str`): folder or Hub id.

    Raises:
        ValueError: it is damaged.
    """
    path = cached_file(
        checkpoint,
        REPORT,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else read_report_file(Path(path))


def read_report_file(path: Path) -> dict[str, Any]:
    """`report.json`, with every field that a command reads checked. One without a version, such as that of a training
    script, may lack them.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: it is damaged; names the field.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{REPORT} is damaged: {error} ({path}).") from error
    if not isinstance(report, dict):
        raise ValueError(f"{REPORT} must be a JSON object, got a {type(report).__name__} ({path}).")
    check_fields(report, ANY_RULES if "schema_version" not in report else RULES, REPORT)
    return report


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _optional(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {name: Rule(rule.words, rule.holds, required=False) for name, rule in rules.items()}


def _is_positive(value: Any) -> bool:
    return is_count(value) and value > 0


def _is_split(value: Any) -> bool:
    return is_object(value) and is_count(value.get("num_rows")) and isinstance(value.get("has_labels"), bool)


SPLIT = "an object with `num_rows` and `has_labels`"
RULES = {
    "schema_version": Rule("a whole number ≥ 1", _is_positive),
    "settings": Rule("an object", is_object),
    "settings.target": Rule("a list of strings", lambda x: is_list(x, is_text)),
    "settings.tune": Rule("'heads' or 'joint'", lambda x: x in ("heads", "joint")),
    "settings.reference": Rule("'given' or 'tuned'", lambda x: x in ("given", "tuned")),
    "settings.batch_size": Rule("a whole number ≥ 1", _is_positive),
    "settings.max_length": Rule("a whole number ≥ 1 or null", lambda x: x is None or _is_positive(x)),
    "settings.heads": Rule("an object", is_object),
    "settings.joint": Rule("an object or null", lambda x: x is None or is_object(x)),
    "mainnet": Rule("an object", is_object),
    "mainnet.name": Rule("a string or null", lambda x: x is None or is_text(x)),
    "mainnet.class": Rule("a string", is_text),
    "mainnet.dtype": Rule("a string", is_text, required=False),
    "data": Rule("an object", is_object),
    "data.train": Rule(SPLIT, _is_split),
    "data.validation": Rule(SPLIT, _is_split),
    "data.test": Rule(SPLIT, _is_split, required=False),
    "data.num_design_rows": Rule(COUNT, is_count),
    "data.num_certification_rows": Rule(COUNT, is_count),
    "evaluation": Rule("an object or null", lambda x: x is None or is_object(x)),
    "versions": Rule("an object with strings", lambda x: is_map(x, is_text)),
    "hardware": Rule("a string", is_text),
    "seconds": Rule("an object with numbers", lambda x: is_map(x, is_number)),
    "files": Rule("an object with strings", lambda x: is_map(x, is_text), required=False),
}
# Of a report that somebody else wrote, what commands would take from it.
ANY_RULES = _optional(
    {name: RULES[name] for name in ("settings", "settings.batch_size", "settings.max_length", "mainnet")}
)
