# SPDX-License-Identifier: Apache-2.0
import pytest

from ..attached import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def checkpoint(runs):
    """A folder of `attach` for texts; not to be changed."""
    folder = runs.folder / "text-checkpoint"
    runs.text().save(folder)
    return folder


@pytest.fixture(scope="session")
def image_checkpoint(runs):
    """The same for pictures."""
    folder = runs.folder / "image-checkpoint"
    runs.image().save(folder)
    return folder
