# SPDX-License-Identifier: Apache-2.0
"""Export a model with SideNets to a folder for ONNX Runtime, one file per stage."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..data.formats import Processor
from ..inference.engine import by_kind, padding_of
from ..inference.precision import refuse_quantized
from ..inference.reading import RowReader, check_rows
from ..inference.rows import Row, collate
from ..inference.stages import Stages
from ..io.folders import check_free, writing_folder
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from .agreement import largest_difference
from .exported import EXPORTED, ONNX, Exported, StageFile, sizes, stage_file, write_about
from .onnx import OnnxStages
from .onnx_graph import (
    MIN_OPSET,
    library,
    load,
    num_convolutions,
    quantize_convolutions,
    quantize_linears,
    save,
    to_onnx,
)
from .programs import HIDDEN, export_stage, user_inputs


DTYPES = (torch.float32, torch.float16)
BATCH_SIZE = 32
# Named as in optimum.
SUFFIX = "_model.onnx"
INT8_SUFFIX = "_model_quantized.onnx"
Batches = Sequence[dict[str, torch.Tensor]]


class MissingCalibrationRows(ArgumentError):
    """Calibration rows, which determine the int8 ranges of convolutions, are missing."""


def export_onnx(
    model: SideNetPreTrainedModel,
    directory: str | os.PathLike,
    *,
    processor: Processor | None = None,
    int8: bool = False,
    calibration_rows: Iterable[Any] | None = None,
    opset: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Exported:
    """Export a model with SideNets to ONNX, atomically: stages, config, manifest and processor.

    The folder has `stage_0_model.onnx`, ..., `config.json` with θ, temperatures and the evidence, `manifest.json`, and
    the tokenizer or image processor. Every stage takes any number of rows, and texts of any length; images have the
    recorded size. Stages are compared to the model's own before the folder appears.

    In int8, linear layers quantize every token separately, so that answers do not depend on the batch; the
    convolutions of MainNets without linear layers in their blocks use fixed ranges from `calibration_rows`. Because
    answers change, the folder's config has no evidence (`calibration` is `None`) until `hf-sidenet recalibrate` finds
    a new θ for it. Files are named as in optimum: `stage_0_model_quantized.onnx`, ...

    Args:
        model ([`SideNetPreTrainedModel`]): model in evaluation mode, on the CPU, in float32 or float16.
        directory (`str` or `os.PathLike`): folder to write.
        processor (tokenizer or image processor, *optional*): processor to save with the stages.
        int8 (`bool`, *optional*, defaults to `False`): convert linear layers of the MainNet, or convolutions, to int8.
        calibration_rows (`Iterable`, *optional*):
            For int8: a few hundred rows, as for [`SideNetRunner`]. Convolutions need them; if given, the answers on
            them are compared too. Use training rows: rows that certify θ must be used for nothing else.
        opset (`int`, *optional*): version of the ONNX operations, by default 20.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder, see [`writing_folder`].
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        [`Exported`]: sizes, and differences from the model's answers.

    Raises:
        ExportError: a stage cannot be exported, or its export answers differently.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        MissingCalibrationRows: int8 convolutions need calibration rows, and there are none.
        ValueError: an argument is invalid, or the folder is not empty.
    """
    if model.device.type != "cpu" or model.dtype not in DTYPES:
        raise ArgumentError(
            "model",
            f"must be in float32 or float16 on the CPU for ONNX Runtime, got {model.dtype} on {model.device}",
        )
    if int8 and model.dtype is not torch.float32:
        raise ArgumentError("int8", f"needs a model in float32, got {model.dtype}")
    if calibration_rows is not None and not int8:
        raise ArgumentError("calibration_rows", "must not be given without `int8`")
    newest = library().defs.onnx_opset_version()
    if opset is not None and not MIN_OPSET <= opset <= newest:
        raise ArgumentError("opset", f"must be in [{MIN_OPSET}, {newest}], got {opset}")
    refuse_quantized(model, "an export")
    check_free(directory, EXPORTED, overwrite=overwrite)
    stages = Stages(model)
    batches = [] if calibration_rows is None else _batches(stages, calibration_rows, processor)
    with TemporaryDirectory() as scratch, writing_folder(directory, EXPORTED, overwrite=overwrite) as folder:
        plain = Path(scratch) if int8 else folder
        files = [
            _write_stage(stages, index, plain, opset)
            for index in logging.tqdm(range(len(stages)), desc="Exporting stages", disable=not progress)
        ]
        write_about(plain, ONNX, model, stages, files, processor)
        difference = largest_difference(OnnxStages.load(plain), stages)
        changed = None
        if int8:
            quantized = [replace(file, file=file.file.replace(SUFFIX, INT8_SUFFIX)) for file in files]
            _write_int8(stages, files, quantized, plain, folder, batches, progress)
            write_about(folder, ONNX, model, stages, quantized, processor, precision="int8")
            changed = _changed(OnnxStages.load(folder), stages, batches)
        return Exported(sizes(folder), difference, changed)


def _write_stage(stages: Stages, index: int, folder: Path, opset: int | None) -> StageFile:
    program = export_stage(stages, index)
    file = stage_file(stages, index, user_inputs(program), SUFFIX)
    save(to_onnx(program, file.inputs, file.outputs, stages.modality.axes, opset), folder / file.file)
    return file


def _write_int8(
    stages: Stages,
    files: Sequence[StageFile],
    quantized: Sequence[StageFile],
    plain: Path,
    folder: Path,
    batches: Batches,
    progress: bool,
) -> None:
    count, convolutions = 0, 0
    for file, written in zip(files, quantized, strict=True):
        model = load(plain / file.file)
        convolutions += num_convolutions(model)
        count += quantize_linears(model, stages.task.num_outputs(stages.config))
        save(model, folder / written.file)
    if count == 0 and convolutions == 0:
        raise ArgumentError("int8", "must find linear layers on tokens or convolutions in the MainNet, got none")
    if count == 0 and not batches:
        raise MissingCalibrationRows(
            "calibration_rows", f"must be given for int8 of the {convolutions} convolutions, got none"
        )
    if count == 0:
        for index in logging.tqdm(range(len(files)), desc="Calibrating stages", disable=not progress):
            file = files[index]
            feeds = _feeds(stages, index, file.inputs, batches)
            quantize_convolutions(plain / file.file, folder / quantized[index].file, feeds)


def _batches(stages: Stages, rows: Iterable[Any], processor: Processor | None) -> Batches:
    """Read rows and collate padded batches."""
    check_rows(rows, "calibration_rows")
    rows = list(rows)
    reader = RowReader(stages, processor)
    read: list[Row] = []
    for row in reader.read(range(len(rows)), rows, [reader.thresholds(None)] * len(rows)):
        if not isinstance(row, Row):
            raise ArgumentError("calibration_rows", f"must be rows of the model, but {str(row).rstrip('.')}") from row
        size = None if stages.modality.has_tokens else list(row.inputs["pixel_values"].shape)
        if size not in (None, stages.config.input_size):
            raise ArgumentError("calibration_rows", f"must be images of {stages.config.input_size}, got {size}")
        read.append(row)
    made = []
    for alike in by_kind(read):
        alike.sort(key=lambda row: row.length)
        parts = [alike[start : start + BATCH_SIZE] for start in range(0, len(alike), BATCH_SIZE)]
        made += [collate(part, padding_of(stages), stages.device).inputs for part in parts]
    if not made:
        raise ArgumentError("calibration_rows", "must have rows, got none")
    return made


@torch.no_grad()
def _feeds(stages: Stages, index: int, names: Sequence[str], batches: Batches) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of a stage, computed by the model's earlier stages."""
    for inputs in batches:
        hidden = None
        for earlier in range(index):
            hidden, _ = stages(earlier, hidden, inputs)
        given = inputs if hidden is None else {**inputs, HIDDEN: hidden}
        yield {name: given[name].numpy() for name in names}


@torch.no_grad()
def _changed(exported: OnnxStages, stages: Stages, batches: Batches) -> list[float] | None:
    """Return, for each exit, the share of rows whose class differs from the model's."""
    changed = torch.zeros(len(stages))
    for inputs in batches:
        ours = theirs = None
        for index in range(len(stages)):
            ours, expected = stages(index, ours, inputs)
            theirs, got = exported(index, theirs, inputs)
            changed[index] += (stages.task.answer(got) != stages.task.answer(expected)).sum()
    num_rows = sum(len(next(iter(inputs.values()))) for inputs in batches)
    return [float(each) / num_rows for each in changed] if num_rows else None
