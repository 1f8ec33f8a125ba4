# SPDX-License-Identifier: Apache-2.0
import importlib

import pytest

from ...benchmark.checkpoints import save_plain, save_text_checkpoint
from ..commands import ROOT


@pytest.fixture(scope="session")
def script():
    """Imports a script of the benchmarks' folder, which imports others from there."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    yield importlib.import_module
    patch.undo()


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    return str(save_text_checkpoint(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    return str(save_plain(tmp_path_factory.mktemp("small")))
