# SPDX-License-Identifier: Apache-2.0
"""Provenance of results: command, date, versions, hardware."""

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def provenance() -> str:
    """Return a Markdown list for the top of a result: command of this process, date, commit, versions and hardware."""
    return "\n".join(
        [
            f"- command: `{command()}`",
            f"- date: {date.today()}, commit: {commit()}",
            f"- {', '.join(f'{name} {found}' for name, found in versions('accelerate', 'datasets').items())}",
            f"- {hardware()}",
        ]
    )


def hardware() -> str:
    """Return `"CPU: ..., 8 threads; GPU: none"`."""
    return f"CPU: {cpu_name()}, {torch.get_num_threads()} threads; GPU: {_gpu()}"


def command() -> str:
    """Return the command line of this process without secrets, since results are shared."""
    words = ["python", *sys.argv]
    for i, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.startswith("-") and "token" in name:
            if equals:
                words[i] = f"{name}=***"
            elif i + 1 < len(words):
                words[i + 1] = "***"
    # Tokens of the Hub, wherever they occur.
    return re.sub(r"hf_[A-Za-z0-9]{16,}", "***", shlex.join(words))


def commit() -> str:
    """Return `git describe` of the checkout that this package runs from, `"none"` for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "none"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    except FileNotFoundError:
        return "unknown (git is not installed)"
    return done.stdout.strip() or "none"


def cpu_name() -> str:
    """Return the processor's name, such as `"AMD EPYC"`."""
    if os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python and of the installed packages that answers may depend on.

    Args:
        more (`str`): packages beyond those that every model depends on.
    """
    found = {"python": platform.python_version()}
    for package in ("hf_sidenet", "torch", "transformers", "timm", *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
