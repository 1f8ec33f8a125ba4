# SPDX-License-Identifier: Apache-2.0
import importlib

import pytest

from ..commands import ROOT


@pytest.fixture(scope="session")
def script():
    """Imports a script of the benchmarks' folder, which imports others from there."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    yield importlib.import_module
    patch.undo()
