# SPDX-License-Identifier: Apache-2.0
"""Where a benchmark ran."""

import re
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..evaluation.provenance import hardware, provenance, versions


NAMED = ("torch", "transformers", "onnxruntime")


def environment() -> dict[str, Any]:
    """Hardware, threads, versions, date, and how this process was started, without secrets."""
    found = versions()
    with suppress(PackageNotFoundError):
        found["onnxruntime"] = version("onnxruntime")
    return {
        "hardware": hardware(),
        "versions": found,
        "date": date.today().isoformat(),
        "provenance": provenance(),
    }


def file_name(environment: dict[str, Any]) -> str:
    """A name that says hardware and versions, as `"cpu-xeon-2-threads-gpu-none-torch-2.15.0-transformers-5.23.0"`.

    Args:
        environment (`dict[str, Any]`): of [`environment`].
    """
    versions = [f"{name}-{environment['versions'][name]}" for name in NAMED if name in environment["versions"]]
    words = "-".join([environment["hardware"], *versions])
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
