# SPDX-License-Identifier: Apache-2.0
"""earlyon 0.3.0 as two methods of the benchmark: its own inference, and its twin, the backbone without exits.

According to its code, its inference works like this: a batch exits, all rows together, at the first exit where *every*
row is confident enough; a single row that is not makes the whole batch continue. So a large batch hardly ever exits
early, but still pays for the exits. Rows are never dropped from a batch. With one row per call it decides row by row,
which its documentation calls its primary use. At each exit the host waits for the decision.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from earlyon_model import CLASSES, FILE, require_earlyon
from torch import nn

from hf_sidenet.benchmark.methods import EAGER, RIVAL, Method
from hf_sidenet.inference.engine import by_kind, predictions
from hf_sidenet.inference.rows import Prediction, Row, collate
from hf_sidenet.models.tasks import SINGLE_LABEL


BACKBONE, PEER = "earlyon's backbone", "earlyon"
FLOAT32 = "float32"


class _Answerer:
    """Answers one batch per call; see [`~hf_sidenet.benchmark.Answerer`].

    Args:
        names (`list[str]`): of the classes.
    """

    def __init__(self, names: list[str]):
        self.names = names

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer some rows."""
        done = []
        for alike in by_kind(rows):
            pixels = collate(alike, {}, torch.device("cpu")).inputs["pixel_values"]
            logits, sure, exit_index = self.answer(pixels)
            which, exits = range(len(alike)), [exit_index] * len(alike)
            done += predictions(SINGLE_LABEL, self.names, alike, which, exits, logits, sure)
        return done

    def flush(self) -> list[Prediction]:
        """Nothing waits."""
        return []

    def answer(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return logits, confidences and the exit of a batch."""
        raise NotImplementedError


class WithExits(_Answerer):
    """earlyon's own inference.

    Args:
        wrapper (`earlyon.core.wrappers.EarlyExitWrapper`): calibrated.
        names (`list[str]`): of the classes.
    """

    def __init__(self, wrapper: Any, names: list[str]):
        super().__init__(names)
        self.wrapper = wrapper
        self.num_exits = len(wrapper.config.exit_points)

    def answer(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """See [`_Answerer`]. earlyon's −1 for the whole network becomes the last exit."""
        if len(pixels) == 1:
            said = self.wrapper(pixels, mode="inference")
            logits, sure = said.prediction, torch.tensor([said.confidence])
        else:
            said = self.wrapper.forward_inference_batched(pixels)
            logits, sure = said.predictions, said.per_sample_confidence
        return logits, sure, said.exit_taken if said.exit_taken >= 0 else self.num_exits


class WithoutExits(_Answerer):
    """earlyon's backbone alone.

    Args:
        backbone (`nn.Module`): without hooks.
        names (`list[str]`): of the classes.
    """

    def __init__(self, backbone: nn.Module, names: list[str]):
        super().__init__(names)
        self.backbone = backbone

    def answer(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """See [`_Answerer`]."""
        logits = self.backbone(pixels)
        return logits, logits.softmax(-1).amax(-1), 0


def earlyon_methods(folder: str | Path) -> list[Method]:
    """Return the methods for earlyon: its backbone, and earlyon itself with the backbone as its twin.

    Args:
        folder (`str` or `Path`): written by `earlyon_model.py`.

    Raises:
        ImportError: earlyon is not installed.
    """
    require_earlyon()
    from earlyon.utils import load_wrapper

    folder = Path(folder).resolve()
    names = json.loads((folder / CLASSES).read_text())
    wrapper = load_wrapper(folder / FILE).eval()
    # Once, and not on the clock: it is estimated at first use.
    _ = wrapper.flops_estimate
    backbone = copy.deepcopy(wrapper.backbone)
    for module in backbone.modules():
        module._forward_hooks.clear()
    thresholds = [
        f"{threshold:g}" if enabled else "off"
        for threshold, enabled in zip(wrapper.config.confidence_thresholds, wrapper.config.enabled_exits, strict=True)
    ]
    methods = [
        Method(BACKBONE, RIVAL, FLOAT32, EAGER, False, make=lambda *_: WithoutExits(backbone, names)),
        Method(
            PEER,
            RIVAL,
            FLOAT32,
            EAGER,
            False,
            make=lambda *_: WithExits(wrapper, names),
            note=f"its thresholds: {', '.join(thresholds)}",
        ),
    ]
    recipe = f"{Path(__file__).stem}:{method_named.__name__}"
    methods = [replace(each, recipe=(recipe, {"folder": str(folder), "name": each.name})) for each in methods]
    return [methods[0], replace(methods[1], twin=methods[0].name)]


def method_named(folder: str, name: str) -> Method:
    """Return one of the two, for another process."""
    return next(method for method in earlyon_methods(folder) if method.name == name)
