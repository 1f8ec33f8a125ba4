# SPDX-License-Identifier: Apache-2.0
"""MainNets to test: built, with statistics as after training, and where their parts go."""

import copy
import functools
import json

import torch

from .naive import spread_out


@functools.cache
def build_mainnet(kind, attention):
    """The MainNet of a test class, made once: tests take copies."""
    torch.manual_seed(1)
    tester = kind()
    mainnet = kind.mainnet_class._from_config(tester.config(), attn_implementation=attention).eval()
    settle_batchnorms(mainnet, tester.inputs(16, seed=98))
    return mainnet


@functools.lru_cache(maxsize=8)
def build_model(kind, exit_layers, attention, fields):
    """The MainNet of a test class with SideNets, made once: tests take copies."""
    tester = kind()
    mainnet = copy.deepcopy(build_mainnet(kind, attention))
    arguments = {**tester.attach, **json.loads(fields)}
    model = kind.model_class.from_mainnet(mainnet, exit_layers=list(exit_layers), **arguments)
    torch.manual_seed(2)
    return spread_out(model, tester.inputs(16, seed=99))


def settle_batchnorms(mainnet, inputs):
    """Running statistics of real features, as after training."""
    norms = [module for module in mainnet.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            mainnet(**inputs)
    for norm in norms:
        norm.momentum = 0.1
    mainnet.eval()


def aligned(model):
    """Weights in memory of their own. Those of a file lie as the file has them, and on some processors (AMD) a
    convolution takes another kernel then, with other last bits; a plain classifier too."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def place(module, on_disk, name=""):
    """A device map with one entry per module, the ones named on disk."""
    prefix = name + "." if name else ""
    if name in on_disk:
        yield name, "disk"
    elif not any(other.startswith(prefix) for other in on_disk):
        yield name, "cpu"
    else:
        yield from ((prefix + key, "cpu") for key, _ in module.named_parameters(recurse=False))
        for key, child in module.named_children():
            yield from place(child, on_disk, prefix + key)
