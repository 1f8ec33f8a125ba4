# SPDX-License-Identifier: Apache-2.0
"""`report.json`: what `attach` found, as JSON that every reader takes. Its keys are described in docs/report.md."""

import json
import math
from collections.abc import Mapping
from typing import Any

from .metadata import hub_id


def report_json(report: Mapping[str, Any]) -> str:
    """A report as text: `null` for NaN and infinite numbers, and no path of the machine that made it.

    Args:
        report (`Mapping[str, Any]`): see [`AttachResult`]; it stays as it is.
    """
    shared = {**report, "mainnet": {**report["mainnet"], "name": hub_id(report["mainnet"]["name"])}}
    return json.dumps(_finite(shared), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
