# SPDX-License-Identifier: Apache-2.0
"""Every test class over the tester, found in the modules named test_modeling_*.py."""

import importlib
from pathlib import Path

import pytest

from .tester import SideNetTester


def all_testers():
    """In the order of their modules, without those that the installed versions of their libraries cannot load."""
    found = []
    for path in sorted(Path(__file__).parent.glob("test_modeling_*.py")):
        try:
            module = importlib.import_module(f"{__package__}.{path.stem}")
        except pytest.skip.Exception:
            continue
        found += [
            value
            for name, value in vars(module).items()
            if name.startswith("Test")
            and issubclass(value, SideNetTester)
            and value.__module__ == module.__name__
            and not getattr(value, "unloadable", "")
        ]
    return found
