# SPDX-License-Identifier: Apache-2.0
"""Export a model with SideNets to a folder of `torch.export` archives, one per stage: for AOTInductor, ExecuTorch and
other compilers, and for torch without this package.

An archive is a zip file of raw weights and a JSON graph. `torch.export.save` also pickles the example inputs; they are
left out here, so that nothing is pickled. Loading an archive can still run its code, because torch evaluates size
expressions in the graph as Python. Hence [`TorchStages`] requires `trust_programs`.
"""

import json
import os
import re
import zipfile
from pathlib import Path

import torch

from ..data.formats import Processor
from ..inference.precision import refuse_quantized
from ..inference.stages import Stages
from ..io.folders import check_free, writing_folder
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from .agreement import largest_difference
from .exported import EXPORTED, TORCH, Exported, ExportedStages, sizes, stage_file, write_about
from .programs import export_stage, user_inputs


SUFFIX = ".pt2"
# Relative to the archive's top folder. Any other file is pickled, or a library.
CONFIGS = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
PLAIN = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|models/model\.json|archive_format|archive_version|byteorder|"
    r"version|\.data/version|\.data/serialization_id|\.format_version|\.storage_alignment"
)
SAMPLE_INPUTS = "data/sample_inputs/model.pt"


def export_torch(
    model: SideNetPreTrainedModel,
    directory: str | os.PathLike,
    processor: Processor | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a model with SideNets to `torch.export` archives, atomically: stages, config, manifest and processor.

    The folder has `stage_0.pt2`, ..., `config.json` with θ, temperatures and the evidence, `manifest.json`, and the
    tokenizer or image processor. Every stage takes any number of rows, and texts of any length; images have the
    recorded size. Each archive has the weights of its own blocks. Stages are compared to the model's own before the
    folder appears.

    Args:
        model ([`SideNetPreTrainedModel`]): model in evaluation mode, on the CPU.
        directory (`str` or `os.PathLike`): folder to write.
        processor (tokenizer or image processor, *optional*): processor to save with the stages.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder, see [`writing_folder`].

    Returns:
        [`Exported`]: sizes, and differences from the model's answers.

    Raises:
        ExportError: a stage cannot be exported, or its export answers differently.
        ValueError: the model is in training mode, not on the CPU or quantized, or the folder is not empty.
    """
    if model.device.type != "cpu":
        raise ArgumentError("model", f"must be on the CPU to be exported, got {model.device}: `model.cpu()`")
    refuse_quantized(model, "an export")
    check_free(directory, EXPORTED, overwrite=overwrite)
    stages = Stages(model)
    with writing_folder(directory, EXPORTED, overwrite=overwrite) as folder:
        files = []
        for index in range(len(stages)):
            program = export_stage(stages, index)
            file = stage_file(stages, index, user_inputs(program), SUFFIX)
            # Would be pickled.
            program.example_inputs = None
            torch.export.save(program, folder / file.file)
            files.append(file)
        write_about(folder, TORCH, model, stages, files, processor)
        difference = largest_difference(TorchStages.load(folder, trust_programs=True), stages)
        return Exported(sizes(folder), difference)


class TorchStages(ExportedStages):
    """Chain of stages of a folder written by [`export_torch`]. Replaces a model in [`SideNetRunner`].

    Args:
        directory (`str` or `os.PathLike`): the folder.
        trust_programs (`bool`, *optional*, defaults to `False`):
            Loading a program can run arbitrary code from it: pass `True` only if you trust its author.

    Raises:
        ValueError: `trust_programs` is `False`, the folder is damaged, or an archive contains a pickle.
    """

    format = TORCH
    runtime = "torch.export"

    def __init__(self, directory: str | os.PathLike, *, trust_programs: bool = False):
        super().__init__(directory)
        if not trust_programs:
            raise ArgumentError(
                "trust_programs",
                f"must be True to load {str(directory)!r}: loading a program of torch.export "
                "can run arbitrary code. ONNX files cannot",
            )
        self._programs = []
        for stage in self.manifest.stages:
            path = Path(directory) / stage.file
            check_archive(path)
            try:
                program = torch.export.load(path)
            except Exception as error:
                line = " ".join(str(error).split())
                what = f"{str(directory)!r} cannot be loaded: {stage.file}: {line}"
                raise ArgumentError("directory", what) from error
            if list(program.graph_signature.user_inputs) != stage.inputs:
                raise ValueError(
                    f"{stage.file} must take {stage.inputs} according to the manifest, but takes "
                    f"{list(program.graph_signature.user_inputs)}."
                )
            self._programs.append(program.module())

    @classmethod
    def load(cls, directory: str | os.PathLike, *, trust_programs: bool = False) -> "TorchStages":
        """Load an exported folder; the arguments are those of the class."""
        return cls(directory, trust_programs=trust_programs)

    def _run(self, index: int, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(self._programs[index](*tensors.values()))


def check_archive(path: Path) -> None:
    """Reject an archive that contains anything but raw tensors and JSON.

    Raises:
        ValueError: it contains a pickle, a library or an unknown file, or is not an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if CONFIGS.fullmatch(name):
                    tensors = json.loads(archive.read(entry))["config"].values()
                    is_raw = not any(tensor["use_pickle"] for tensor in tensors)
                elif name == SAMPLE_INPUTS:
                    is_raw = entry.file_size == 0
                else:
                    is_raw = PLAIN.fullmatch(name) is not None
                if not is_raw:
                    raise ValueError(
                        f"{path.name} must contain only raw tensors and JSON, but has {entry.filename!r}."
                    )
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} must be a torch.export archive: {error}") from error
