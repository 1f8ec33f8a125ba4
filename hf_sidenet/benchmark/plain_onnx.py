# SPDX-License-Identifier: Apache-2.0
"""A classifier without SideNets in ONNX Runtime: exported and run as stages are, in one piece."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..export.onnx import open_session
from ..export.onnx_graph import load, save, to_onnx
from ..export.onnx_int8 import quantize_convolutions, quantize_linears
from ..export.programs import DEFAULTS, export_stage
from ..inference.engine import by_kind, padding_of
from ..inference.rows import Row, collate
from ..models.modalities import IMAGE, TEXT
from ..models.tasks import SINGLE_LABEL
from .plain import PlainChain, PlainConfig


BATCH_SIZE = 32


def export_plain(chain: PlainChain, path: str | os.PathLike, *, int8: bool, rows: Sequence[Row] = ()) -> None:
    """Write a classifier as one ONNX file, by the same steps as [`export_onnx`] takes for its stages.

    Args:
        chain ([`PlainChain`]): in float32 or float16, on the CPU.
        path (`str` or `os.PathLike`): the file.
        int8 (`bool`): turn linear layers to int8, or convolutions where there are none.
        rows (`Sequence[Row]`, *optional*): that show the ranges of what goes into convolutions.

    Raises:
        ExportError: it cannot be exported.
        ImportError: onnx or onnxscript is not installed.
    """
    path = Path(path)
    program = export_stage(chain, 0)
    names = list(program.graph_signature.user_inputs)
    save(to_onnx(program, names, ["logits"], chain.modality.axes, None), path)
    if not int8:
        return
    model = load(path)
    if quantize_linears(model, chain.config.num_labels):
        save(model, path)
    else:
        quantize_convolutions(path, path, _feeds(chain, names, rows))


class PlainOnnx:
    """As [`PlainChain`], run by ONNX Runtime with the options of [`OnnxStages`].

    Args:
        path (`str` or `os.PathLike`): of [`export_plain`].
        config ([`PlainConfig`]): of the classifier.
        dtype (`torch.dtype`): of its images and logits.
    """

    def __init__(self, path: str | os.PathLike, config: PlainConfig, dtype: torch.dtype):
        self.session = open_session(path)
        self.input_names = tuple(each.name for each in self.session.get_inputs())
        self.config = config
        self.dtype = dtype
        self.device = torch.device("cpu")
        self.task, self.modality = SINGLE_LABEL, IMAGE if "pixel_values" in self.input_names else TEXT

    def __len__(self) -> int:
        return 1

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[None, torch.Tensor]:
        """See [`Stages`]."""
        shape = next(iter(inputs.values())).shape[:2]
        feed = {}
        for name in self.input_names:
            value = inputs.get(name)
            value = torch.full(shape, DEFAULTS[name]) if value is None else value
            feed[name] = value.contiguous().numpy()
        (logits,) = self.session.run(None, feed)
        return None, torch.from_numpy(logits)


def _feeds(chain: PlainChain, names: Sequence[str], rows: Sequence[Row]) -> Any:
    for alike in by_kind(rows):
        for start in range(0, len(alike), BATCH_SIZE):
            batch = collate(alike[start : start + BATCH_SIZE], padding_of(chain), chain.device)
            yield {name: batch.inputs[name].numpy() for name in names}
