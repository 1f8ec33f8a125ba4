# SPDX-License-Identifier: Apache-2.0
"""What exported folders of every format have in common: how they are written, and read as a chain of stages."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..inference.stages import Stages
from ..io.files import sha256
from ..io.fingerprint import fingerprint_weights
from ..models.configuration_sidenet import SideNetConfig
from ..models.modalities import MODALITIES
from ..models.tasks import task_of
from .manifest import VERSION, Manifest, StageFile, package_versions
from .programs import DEFAULTS, HIDDEN, input_names


CONFIG = "config.json"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        files (`dict[str, int]`): size in bytes, by name.
        largest_difference (`float`):
            From the model's own x_c and logits, as a fraction of the largest of these, on rows of noise; before
            anything was turned to int8.
        changed (`list[float]`, *optional*):
            Share of the calibration rows that an exit answers with another class than the model's, by exit.
    """

    files: dict[str, int]
    largest_difference: float
    changed: list[float] | None = None


class ExportedStages:
    """The chain of stages of an exported folder, called as [`Stages`] is.

    Args:
        directory (`str` or `os.PathLike`): the folder.
    """

    format = ""
    runtime = ""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.manifest = Manifest.read(directory, self.format)
        self.config = read_config(directory)
        if len(self.manifest.stages) != len(self.config.exit_layers) + 1:
            raise ValueError(
                f"`directory` {str(directory)!r} is damaged: {len(self.config.exit_layers)} SideNets in {CONFIG}, but "
                f"{len(self.manifest.stages)} stages. Export it again."
            )
        self.task, self.modality = task_of(self.config)[0], MODALITIES[self.manifest.modality]
        self.input_names = tuple(self.manifest.input_names)
        self.max_length = self.manifest.max_length
        self.precision = f"{self.manifest.precision} ({self.runtime})"
        self.dtype = getattr(torch, self.manifest.dtype)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.manifest.stages)

    def check_mode(self) -> None:
        """See [`StageChain`]: files have no mode."""

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Run one stage: its x_c (`None` for the last) and logits.

        Args:
            index (`int`): which stage.
            hidden (`torch.Tensor`, *optional*): x_c that it starts from; `None` for stage 0.
            inputs (`dict[str, torch.Tensor]`): the MainNet's inputs of the same rows. What the stage does not need is
                not looked at; where `attention_mask` is missing every token counts.

        Raises:
            ValueError: an input is missing, unknown, or of another size than the others.
        """
        outputs = self._run(index, self._tensors(index, hidden, inputs))
        return outputs if len(outputs) == 2 else (None, outputs[0])

    def _run(self, index: int, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    def _tensors(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        unknown = sorted(set(inputs) - set(self.input_names))
        if unknown:
            raise ValueError(f"`inputs` must be among {list(self.input_names)}, got {unknown}.")
        if (hidden is None) != (index == 0):
            raise ValueError(f"`hidden` must be given for every stage but the first, got {hidden} for stage {index}.")
        first = hidden if index else inputs.get(self.input_names[0])
        if first is None:
            raise ValueError(f"`inputs` must have {self.input_names[0]!r}, got {list(inputs)}.")
        size = tuple(first.shape[: len(self.modality.axes)])
        tensors = {}
        for name in self.manifest.stages[index].inputs:
            value = hidden if name == HIDDEN else inputs.get(name)
            if value is None:
                value = torch.full(size, DEFAULTS[name])
            if tuple(value.shape[: len(size)]) != size:
                raise ValueError(f"`{name}` must have {size} rows and tokens as x_c or the texts, got {value.shape}.")
            tensors[name] = value
        return tensors


def read_config(directory: str | os.PathLike) -> SideNetConfig:
    """The config of an exported folder.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        fields = json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8"))
        config = SideNetConfig.from_dict(fields)
        config.validate()
    # Of garbage the config may say anything.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"`directory` {str(directory)!r} has no usable {CONFIG}: {error}") from error
    if config.block_shapes is None:
        rule = "`block_shapes` must be a list of shapes, got None."
        raise ValueError(f"`directory` {str(directory)!r} has no usable {CONFIG}: {rule}")
    return config


@dataclass(frozen=True)
class ExportedAbout:
    """What an exported folder says of itself: enough for [`why_not_certified`], and nothing of it is run.

    Args:
        config ([`SideNetConfig`]): with θ and the evidence.
        manifest ([`Manifest`]): checked against the files.
    """

    config: SideNetConfig
    manifest: Manifest

    @property
    def precision(self) -> str:
        """Of its numbers, whatever the runtime."""
        return self.manifest.precision


def write_about(
    folder: Path,
    format: str,
    model: PreTrainedModel,
    stages: Stages,
    files: Sequence[StageFile],
    processor: Any,
    precision: str | None = None,
) -> None:
    """Write what an exported folder says beside its stages: config, processor and manifest.

    Args:
        folder (`Path`): with the files of the stages, and nothing else.
        format (`str`): of these.
        model (`PreTrainedModel`): that was exported.
        stages ([`Stages`]): its chain.
        files (`Sequence[StageFile]`): one per stage.
        processor (tokenizer or image processor, *optional*): saved beside them.
        precision (`str`, *optional*): by default the model's own. θ was certified in that one: in another there is
            no evidence behind it.
    """
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    dtype = str(stages.dtype).removeprefix("torch.")
    config = json.loads(stages.config.to_json_string())
    # There is no code beside it that would be loaded.
    config.pop("auto_map", None)
    if precision not in (None, dtype):
        config["calibration"] = None
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if processor is not None:
        processor.save_pretrained(folder)
    manifest = Manifest(
        format=format,
        format_version=VERSION,
        precision=precision or dtype,
        dtype=dtype,
        modality=stages.modality.name,
        input_names=list(input_names(stages)),
        max_length=stages.max_length,
        stages=list(files),
        sha256=hashes,
        versions=package_versions(),
        weights=fingerprint_weights(model),
    )
    manifest.write(folder)


def stage_file(stages: Stages, index: int, inputs: Sequence[str], suffix: str) -> StageFile:
    """Name the file of a stage.

    Args:
        stages ([`Stages`]): the chain.
        index (`int`): which stage.
        inputs (`Sequence[str]`): what it needs.
        suffix (`str`): of the file.
    """
    outputs = ["logits"] if index == len(stages) - 1 else ["x_c", "logits"]
    return StageFile(f"stage_{index}{suffix}", list(inputs), outputs)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files of the stages."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("stage_*"))}
