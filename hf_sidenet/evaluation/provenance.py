# SPDX-License-Identifier: Apache-2.0
"""Where a number comes from: command, date, versions, hardware."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


PACKAGES = ("hf_sidenet", "torch", "transformers", "accelerate", "datasets", "timm")


def provenance() -> str:
    """A Markdown list for the top of a result: this process's command, the commit, versions and hardware."""
    return "\n".join(
        [
            f"- command: `{_command()}`",
            f"- date: {date.today()}, commit: {_commit()}",
            f"- Python {platform.python_version()}, {', '.join(_versions())}",
            f"- CPU: {_cpu()}, {torch.get_num_threads()} threads; GPU: {_gpu()}",
        ]
    )


def _command() -> str:
    return shlex.join(["python", *sys.argv])


def _commit() -> str:
    """Of the checkout that this package runs from; installed packages have none."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return "unknown (git is not installed)"
    return done.stdout.strip() or "none"


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    if os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
