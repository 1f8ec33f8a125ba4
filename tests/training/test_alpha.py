# SPDX-License-Identifier: Apache-2.0
"""α weighs each SideNet's loss by itself, under the stock Trainer."""

import copy

import pytest
import torch

from ..distributed import cases


def moved(alpha, mode, folder, **kwargs):
    """What each parameter of the SideNets moved by."""
    model = cases.build("several", freeze_mainnet=mode, exit_layers=[1, 3], alpha=alpha)
    before = copy.deepcopy(model.sidenets.state_dict())
    # Clipping would divide by the norm of all gradients together.
    args = cases.arguments(folder, max_grad_norm=0.0, **kwargs)
    cases.make_trainer(model, "several", args).train()
    return [
        {name: value - before[f"{i}.{name}"] for name, value in sidenet.named_parameters()}
        for i, sidenet in enumerate(model.sidenets)
    ]


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("mode", ["all", "none"])
def test_alpha_0_leaves_a_sidenet_where_it_was(mode, optim, tmp_path):
    still, moving = moved([0.0, 1.0], mode, tmp_path, optim=optim)
    assert not any(change.any() for change in still.values())
    assert all(change.any() for change in moving.values())


@pytest.mark.parametrize("mode", ["all", "none"])
def test_twice_alpha_is_twice_the_gradient(mode, tmp_path):
    once = moved([1.0, 1.0], mode, tmp_path, max_steps=1)
    twice = moved([2.0, 1.0], mode, tmp_path, max_steps=1)
    for name, change in once[0].items():
        torch.testing.assert_close(twice[0][name], 2 * change, atol=1e-6, rtol=1e-4, msg=name)
        assert name == "dense.bias" or change.abs().max() > 1e-4
    for name, change in once[1].items():
        assert torch.equal(twice[1][name], change), name
