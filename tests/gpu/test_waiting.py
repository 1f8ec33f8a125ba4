# SPDX-License-Identifier: Apache-2.0
"""How often a forward call waits for the GPU, as the profiler sees it: one copy to the host per exit where rows can
leave, none otherwise. The operations behind it are counted without a GPU in `tests/models/test_host_copies.py`.
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.models.naive import without_hooks

from .cases import ALMOST_ONE


pytestmark = pytest.mark.gpu


@torch.no_grad()
def waits(model, inputs, **kwargs):
    """Copies from the device to the host in one call, and how often the host waited for a stream."""
    model(**inputs, **kwargs)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        model(**inputs, **kwargs)
    names = [event.name for event in profiler.events()]
    return sum("DtoH" in name for name in names), sum("StreamSynchronize" in name for name in names)


def test_one_copy_per_exit_and_batch(case, device, record):
    model, inputs = case.on(device)
    plain, _ = waits(without_hooks(model.mainnet), inputs)
    thresholds = torch.full((16, 2), ALMOST_ONE, device=device)
    expected = {
        "exits off": ({"thresholds": 1.0}, 0),
        "2 exits, nobody leaves": ({"thresholds": ALMOST_ONE}, 2),
        "2 exits, θ on the device": ({"thresholds": thresholds}, 2),
        "everybody leaves at the first": ({"thresholds": 0.0}, 1),
    }
    found = {}
    for name, (kwargs, _) in expected.items():
        copies, synchronizations = waits(model, inputs, **kwargs)
        found[name] = copies - plain
        value = f"{copies - plain} (plain MainNet: {plain}); stream synchronizations: {synchronizations}"
        record(f"copies to the host, {name}", case.name, value)
    assert found == {name: copies for name, (_, copies) in expected.items()}


def test_none_in_training(case, device, record):
    model, inputs = case.on(device)
    plain, _ = waits(without_hooks(model.mainnet), inputs)
    copies, _ = waits(model.train(), inputs)
    record("copies to the host, training", case.name, f"{copies - plain} (plain MainNet: {plain})")
    assert copies == plain
