# SPDX-License-Identifier: Apache-2.0
"""The scripts of examples/distributed as modules."""

import importlib
import sys
from pathlib import Path


FOLDER = Path(__file__).parents[2] / "examples/distributed"


def module(name):
    """One of them; they import each other by name."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
