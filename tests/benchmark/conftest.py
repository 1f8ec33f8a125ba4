# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, each saved once."""

import pytest

from .checkpoints import save_image_checkpoint, save_text_checkpoint


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    return str(save_text_checkpoint(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="session")
def image_checkpoint(tmp_path_factory):
    return str(save_image_checkpoint(tmp_path_factory.mktemp("image")))
