# SPDX-License-Identifier: Apache-2.0
"""How often a forward call waits for the device: once per exit where rows can leave, never otherwise.

Counted on the CPU as the operations that a GPU would be waited for; the profiler's view on CUDA is not verified.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import tiny
from .naive import without_hooks


WAITING = ("aten.nonzero.default", "aten._local_scalar_dense.default", "aten.is_nonzero.default")


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += str(func) in WAITING
        return func(*args, **(kwargs or {}))


def copies(model, **inputs):
    with torch.no_grad(), Counting() as counting:
        model(**inputs)
    return counting.count


MODELS = [(tiny.bert_with_sidenets, tiny.texts, 2), (tiny.resnet_with_sidenet, tiny.images, 1)]


@pytest.mark.parametrize(("build", "inputs", "num_sidenets"), MODELS, ids=["text", "image"])
def test_one_per_exit_and_none_with_exits_off_or_in_training(build, inputs, num_sidenets):
    model, batch = build(), inputs(6)
    own = copies(without_hooks(model.mainnet), **batch)
    # θ at which every exit is reached: nobody is ever this sure.
    high = 1 - 1e-6
    assert copies(model, **batch, thresholds=high) == own + num_sidenets
    assert copies(model, **batch, thresholds=0.0) == own + 1
    assert copies(model, **batch, thresholds=1.0) == own
    assert copies(model.train(), **batch) == own
