# SPDX-License-Identifier: Apache-2.0
"""Folders of `hf-sidenet export`, where a command takes one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.modalities import MODALITIES
from .outcome import Outcome
from .texts import exported_text


if TYPE_CHECKING:
    from ..export.onnx import OnnxStages

# Static twin of the library's own, which costs an import of torch.
MANIFEST = "manifest.json"


def is_exported(directory: str) -> bool:
    """Whether a folder was written by `hf-sidenet export`."""
    from ..export import exported as manifest

    return manifest.is_exported(directory)


def load_exported(directory: str) -> "OnnxStages":
    """The stages in an exported folder.

    Raises:
        ValueError: the folder is damaged, or of another format.
    """
    from ..export.onnx import OnnxStages

    return OnnxStages.load(directory)


def exported_info(directory: str) -> Outcome:
    """What is in an exported folder."""
    from ..calibration import check_evidence
    from ..data import processor_in
    from ..export.exported import ExportedAbout, Manifest, read_config
    from ..export.onnx import OnnxStages
    from ..export.torch_export import TorchStages
    from ..inference.certificate import why_not_certified

    runtimes = {each.format: each.runtime for each in (OnnxStages, TorchStages)}
    # Read, not loaded: that needs the runtime, and a program of torch.export can run code.
    try:
        found = json.loads((Path(directory) / MANIFEST).read_text(encoding="utf-8"))["format"]
    # What is wrong with it is said by the reading below.
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    manifest = Manifest.read(directory, TorchStages.format if found == TorchStages.format else OnnxStages.format)
    config = read_config(directory)
    if config.calibration is not None:
        check_evidence(config.calibration)
    places = zip(config.exit_layers, config.pooling, config.thresholds, config.temperatures, strict=False)
    document = {
        "exported": directory,
        "precision": f"{manifest.precision} ({runtimes[manifest.format]})",
        "mainnet": {
            "num_blocks": len(config.block_shapes) + 1,
            "classes": [config.id2label[index] for index in range(config.num_labels)],
            "temperature": config.temperatures[-1],
        },
        "exits": [
            {
                "name": f"SideNet {i}",
                "exit_layer": k,
                "pooling": pooling,
                "threshold": theta,
                "temperature": temperature,
            }
            for i, (k, pooling, theta, temperature) in enumerate(places)
        ],
        "calibration": config.calibration,
    }
    document["not_certified"] = why_not_certified(
        ExportedAbout(config, manifest), processor_in(directory, MODALITIES[manifest.modality])
    )
    return Outcome(document, exported_text(document))
