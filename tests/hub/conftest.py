# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import pytest

from .folder import save_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A shareable folder; do not change it."""
    return save_folder(tmp_path_factory.mktemp("whole") / "mine")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the shareable folder."""
    return Path(shutil.copytree(whole, tmp_path / "mine"))
