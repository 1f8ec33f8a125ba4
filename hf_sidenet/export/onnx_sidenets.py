# SPDX-License-Identifier: Apache-2.0
"""Replace the SideNets in an exported folder for ONNX Runtime; the blocks stay as they are, float or int8."""

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..io.files import sha256
from ..models.sidenet import SideNet
from .exported import CONFIG
from .onnx import OnnxStages
from .onnx_graph import load, replace_head, save


def replace_sidenets(
    stages: OnnxStages, sidenets: Mapping[int, SideNet], weights: str, directory: str | os.PathLike
) -> OnnxStages:
    """Write the files of a chain with other SideNets to a new folder, and open it.

    It has the stages, `config.json` without evidence, and the manifest, which records where it is from.

    Args:
        stages ([`OnnxStages`]): the chain, with all stages open; its folder is not changed.
        sidenets (`Mapping[int, SideNet]`): SideNets by index, in evaluation mode.
        weights (`str`): fingerprint of the checkpoint with these SideNets.
        directory (`str` or `os.PathLike`): an empty folder.

    Raises:
        ExportError: a stage has no SideNet of the known form.
    """
    folder, manifest = Path(directory), stages.manifest
    for name in manifest.sha256:
        shutil.copy2(stages.directory / name, folder / name)
    for index, sidenet in sidenets.items():
        path = folder / manifest.stages[index].file
        model = load(path)
        replace_head(model, [(weight.numpy(), bias.numpy()) for weight, bias in folded(sidenet)])
        for name in (path.name, f"{path.name}.data"):
            (folder / name).unlink(missing_ok=True)
        save(model, path)
    config = copy.deepcopy(stages.config)
    config.calibration = None
    config.to_json_file(folder / CONFIG)
    hashes = {path.name: sha256(path) for path in sorted(folder.glob("stage_*"))}
    source = manifest.retrained_from or manifest.weights
    replace(manifest, sha256=hashes, weights=weights, retrained_from=source).write(folder)
    return stages.reopened(folder)


@torch.no_grad()
def folded(sidenet: SideNet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return weight and bias of a SideNet's two linear layers in float32, with its BatchNorm inside the first.

    Args:
        sidenet ([`SideNet`]): the SideNet.
    """
    dense, norm, out = sidenet.dense, sidenet.norm, sidenet.out_proj
    assert norm.running_mean is not None  # It tracks running statistics.
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = dense.weight.double() * scale.unsqueeze(1)
    bias = (dense.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    return [(weight.float(), bias.float()), (out.weight.detach().float(), out.bias.detach().float())]
