# SPDX-License-Identifier: Apache-2.0
"""A run that was killed between two checkpoints and resumed ends with the weights of one that was not, bit for bit."""

import os

import pytest
import torch

from . import cases, loop
from .launch import launch
from .run_killed import KILLED, SAVED, make_trainer


pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    launch("run_killed", root, processes=1)
    return root


def assert_same(found, expected):
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["frozen", "joint"])
def test_the_trainer_resumes_a_killed_run(folder, name, tmp_path):
    assert {path.name for path in (folder / name).iterdir()} == {"checkpoint-4", f"checkpoint-{SAVED}"}
    whole = make_trainer(name, tmp_path)
    whole.train()
    resumed = make_trainer(name, folder / name)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 14
    # The steps before the checkpoint come from its log, those after it were trained again.
    assert cases.logged(resumed) == cases.logged(whole)
    assert_same(resumed.model, whole.model)


def test_a_plain_loop_resumes_a_killed_run(folder):
    data = cases.rows("joint", 40)
    _, whole, losses = loop.train(cases.build("joint", dropout=0.1), data)
    assert len(losses) > KILLED
    _, resumed, later = loop.train(cases.build("joint", dropout=0.1), data, resume_from=(folder / "loop", SAVED))
    assert torch.equal(later, losses[SAVED:])
    assert_same(resumed, whole)
