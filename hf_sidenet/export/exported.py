# SPDX-License-Identifier: Apache-2.0
"""Exported folders of every format: manifest, writing, and reading as a chain of stages."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..data.formats import Processor
from ..inference.stages import Stages
from ..io.files import sha256
from ..io.fingerprint import fingerprint_weights
from ..io.folder_kinds import PROCESSOR_NAMES, FolderKind
from ..io.json import read_object
from ..models.configuration_sidenet import SideNetConfig, begins_at_input
from ..models.errors import ArgumentError
from ..models.modalities import IMAGE, MODALITIES, TEXT
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import task_of
from .programs import HIDDEN, input_names, token_inputs


MANIFEST = "manifest.json"
EXPORTED = FolderKind(
    document=MANIFEST,
    marks=("format", "stages", "sha256"),
    names=("config.json", "stage_*.onnx", "stage_*.data", "stage_*.pt2", *PROCESSOR_NAMES),
)
# Increases when a field changes its meaning.
VERSION = 1
ONNX, TORCH = "onnx", "torch"
DTYPES = ("float32", "float16", "bfloat16", "float64")
PACKAGES = ("hf_sidenet", "torch", "transformers", "timm", "onnx", "onnxscript", "onnxruntime")

CONFIG = "config.json"


def is_exported(directory: str | os.PathLike) -> bool:
    """Return whether a folder was written by `hf-sidenet export`.

    Args:
        directory (`str` or `os.PathLike`): the folder; need not exist.
    """
    return (Path(directory) / MANIFEST).is_file()


@dataclass(frozen=True)
class StageFile:
    """One stage of an exported folder.

    Args:
        file (`str`): name of the file.
        inputs (`list[str]`): names of its inputs, in order; `"hidden"` is x_c at its start.
        outputs (`list[str]`): names of its outputs, in order: x_c at its end, except for the last stage, and logits.
    """

    file: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class Manifest:
    """Contents of an exported folder.

    Args:
        format (`str`): `"onnx"` or `"torch"`.
        format_version (`int`): version of the manifest.
        precision (`str`): precision of the stages: `"float32"`, `"int8"`, ...
        dtype (`str`): dtype of x_c, images and logits.
        modality (`str`): `"text"`, whose second axis, the tokens, has variable size, or `"image"`.
        input_names (`list[str]`): inputs that the chain takes; some may be unused.
        max_length (`int`, *optional*): tokens of the longest text; `None` for no limit, and for images.
        stages (`list[StageFile]`): stages in order.
        sha256 (`dict[str, str]`): SHA-256 of every file of a stage, in hexadecimal.
        versions (`dict[str, str]`): versions of the packages that wrote it.
        weights (`str`, *optional*): fingerprint of the exported weights; `None` if not recorded.
        retrained_from (`str`, *optional*): if the SideNets were retrained after the export, fingerprint of the
            checkpoint that was exported; `weights` is then that of the same MainNet with these SideNets.
    """

    format: str
    format_version: int
    precision: str
    dtype: str
    modality: str
    input_names: list[str]
    max_length: int | None
    stages: list[StageFile]
    sha256: dict[str, str]
    versions: dict[str, str]
    weights: str | None = None
    retrained_from: str | None = None

    def write(self, directory: str | os.PathLike) -> None:
        """Write the manifest to the folder of the stages."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (Path(directory) / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: str | os.PathLike, format: str) -> "Manifest":
        """Read a manifest and check it against the folder.

        Args:
            directory (`str` or `os.PathLike`): exported folder.
            format (`str`): the expected format.

        Raises:
            ValueError: the folder has another format or version, or is damaged.
        """
        path = Path(directory) / MANIFEST
        try:
            document = read_object(path)
        except FileNotFoundError:
            raise ArgumentError("directory", f"must be an exported folder, with {MANIFEST}", str(directory)) from None
        except (OSError, ValueError) as error:
            raise _damaged(directory, f"{MANIFEST} cannot be read ({error})") from error
        if document.get("format") != format or document.get("format_version") != VERSION:
            raise ArgumentError(
                "directory",
                f"must be an exported folder of format {format!r}, version {VERSION}, got "
                f"{document.get('format')!r}, version {document.get('format_version')!r}, in "
                f"{str(directory)!r}",
            )
        if "modality" not in document:
            # Folders of version 0.1 say whether they read texts.
            kinds: dict[Any, str] = {True: TEXT.name, False: IMAGE.name}
            document["modality"] = kinds.get(document.get("is_text"))
        wrong = _wrong_field(document)
        if wrong is not None:
            raise _damaged(directory, f"{MANIFEST} has an invalid {wrong}")
        stages = [StageFile(**stage) for stage in document["stages"]]
        manifest = cls(**{**{field.name: document.get(field.name) for field in fields(cls)}, "stages": stages})
        for name, expected in manifest.sha256.items():
            if not (Path(directory) / name).is_file():
                raise _damaged(directory, f"{name} is missing")
            if sha256(Path(directory) / name) != expected:
                raise _damaged(directory, f"{name} is not the file that was written")
        return manifest


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages involved in exports."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _damaged(directory: str | os.PathLike, what: str) -> ValueError:
    return ArgumentError("directory", f"{str(directory)!r} is damaged: {what}. Export it again")


def _wrong_field(document: dict[str, Any]) -> str | None:
    """Return the name of a field with an invalid value, or `None`."""
    stages: Any = document.get("stages")
    names: Any = document.get("input_names")
    hashes: Any = document.get("sha256")
    length = document.get("max_length", 0)
    rules = {
        "precision": isinstance(document.get("precision"), str),
        "dtype": document.get("dtype") in DTYPES,
        "modality": document.get("modality") in [*MODALITIES],
        "input_names": _are_strings(names) and len(names) > 0,
        "max_length": length is None or (type(length) is int and length > 0),
        "sha256": isinstance(hashes, dict) and _are_strings([*hashes.values()]) and all(map(_is_plain, hashes)),
        "versions": isinstance(document.get("versions"), dict),
        "weights": isinstance(document.get("weights"), str | None),
        "retrained_from": isinstance(document.get("retrained_from"), str | None),
    }
    for name, holds in rules.items():
        if not holds:
            return name
    if not isinstance(stages, list) or len(stages) < 2:
        return "stages"
    for index, stage in enumerate(stages):
        before = stages[index - 1] if index else None
        if not _is_stage(stage, before, names, hashes, is_last=index == len(stages) - 1):
            return f"stage {index}"
    if len({stage["file"] for stage in stages}) < len(stages):
        return "list of stages, which names one file twice"
    return None


def _is_stage(stage: Any, before: Any, names: Sequence[str], hashes: dict[str, str], *, is_last: bool) -> bool:
    if not isinstance(stage, dict) or set(stage) != {field.name for field in fields(StageFile)}:
        return False
    if not (_are_strings(stage["inputs"]) and _are_strings(stage["outputs"]) and isinstance(stage["file"], str)):
        return False
    # No x_c enters the first stage, nor the one after a SideNet before the first block.
    has_hidden = before is not None and len(before["outputs"]) == 2
    inputs = stage["inputs"]
    return (
        stage["file"] in hashes
        and len(inputs) == len(set(inputs)) > 0
        and set(inputs) <= {*names, HIDDEN}
        and (HIDDEN in inputs) == has_hidden
        and len(stage["outputs"]) in ((1,) if is_last else (2,) if before else (1, 2))
    )


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_plain(name: str) -> bool:
    """Return whether a name stays within its folder."""
    return name not in ("", ".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Args:
        files (`dict[str, int]`): sizes in bytes, by name.
        largest_difference (`float`):
            Largest difference from the model's own x_c and logits, as a fraction of their largest value, on random
            rows; before conversion to int8.
        changed (`list[float]`, *optional*):
            For each exit, the share of calibration rows whose class differs from the model's.
    """

    files: dict[str, int]
    largest_difference: float
    changed: list[float] | None = None


class ExportedStages:
    """Chain of stages of an exported folder, called like [`Stages`].

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
            raise ArgumentError(
                "directory",
                f"{str(directory)!r} is damaged: {len(self.config.exit_layers)} SideNets in "
                f"{CONFIG}, but {len(self.manifest.stages)} stages. Export it again",
            )
        if (len(self.manifest.stages[0].outputs) == 1) != begins_at_input(self.config):
            raise ArgumentError(
                "directory",
                f"{str(directory)!r} is damaged: `exit_layers` in {CONFIG} are {self.config.exit_layers}, but stage 0 "
                f"returns {self.manifest.stages[0].outputs}. Export it again",
            )
        self.task, self.modality = task_of(self.config)[0], MODALITIES[self.manifest.modality]
        self.input_names = tuple(self.manifest.input_names)
        self._optional = token_inputs(self.config.mainnet_config)
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
        """Run one stage; return its x_c (`None` for the last) and logits.

        Args:
            index (`int`): index of the stage.
            hidden (`torch.Tensor`, *optional*): x_c at its start; `None` if no block has run.
            inputs (`dict[str, torch.Tensor]`): MainNet inputs of the same rows. Unused ones are ignored; without
                `attention_mask`, every token counts.

        Raises:
            ValueError: an input is missing or unknown, or its size does not match the others.
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
            raise ArgumentError("inputs", f"must be among {list(self.input_names)}, got {unknown}")
        if (hidden is None) != (index <= int(begins_at_input(self.config))):
            raise ArgumentError(
                "hidden",
                f"must be given for every stage that starts after a block, got {hidden} for stage {index}",
            )
        first = inputs.get(self.input_names[0]) if hidden is None else hidden
        if first is None:
            raise ArgumentError("inputs", f"must have {self.input_names[0]!r}, got {list(inputs)}")
        size = tuple(first.shape[: len(self.modality.axes)])
        tensors = {}
        for name in self.manifest.stages[index].inputs:
            value = hidden if name == HIDDEN else inputs.get(name)
            if value is None:
                value = self._optional[name].filled(size)
            if tuple(value.shape[: len(size)]) != size:
                raise ArgumentError(
                    name, f"must have the size of x_c or the texts, {size}, got shape {tuple(value.shape)}"
                )
            tensors[name] = value
        return tensors


def read_config(directory: str | os.PathLike) -> SideNetConfig:
    """Read the config of an exported folder.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        config = SideNetConfig.from_dict(read_object(Path(directory) / CONFIG))
        config.validate()
    # Invalid contents can raise any of these.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise ArgumentError("directory", f"{str(directory)!r} has no usable {CONFIG}: {reason}") from error
    if config.block_shapes is None:
        rule = "`block_shapes` must be a list of shapes, got None"
        raise ArgumentError("directory", f"{str(directory)!r} has no usable {CONFIG}: {rule}")
    return config


@dataclass(frozen=True)
class ExportedAbout:
    """Config and manifest of an exported folder: enough for [`why_not_certified`], without running anything.

    Args:
        config ([`SideNetConfig`]): config with θ and the evidence.
        manifest ([`Manifest`]): manifest, checked against the files.
    """

    config: SideNetConfig
    manifest: Manifest

    @property
    def precision(self) -> str:
        """Precision, without the runtime."""
        return self.manifest.precision


def write_about(
    folder: Path,
    format: str,
    model: SideNetPreTrainedModel,
    stages: Stages,
    files: Sequence[StageFile],
    processor: Processor | None,
    precision: str | None = None,
) -> None:
    """Write everything but the stages of an exported folder: config, processor and manifest.

    Args:
        folder (`Path`): folder that contains only the files of the stages.
        format (`str`): format of the files.
        model ([`SideNetPreTrainedModel`]): the exported model.
        stages ([`Stages`]): its chain.
        files (`Sequence[StageFile]`): files of the stages.
        processor (tokenizer or image processor, *optional*): processor to save along.
        precision (`str`, *optional*): precision of the files, by default the model's. In another precision, there is
            no evidence behind θ.
    """
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    dtype = str(stages.dtype).removeprefix("torch.")
    config = json.loads(stages.config.to_json_string())
    # The folder contains no model code.
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
        index (`int`): index of the stage.
        inputs (`Sequence[str]`): names of its inputs.
        suffix (`str`): suffix of the file.
    """
    has_state = index < len(stages) - 1 and (index > 0 or not begins_at_input(stages.config))
    outputs = ["x_c", "logits"] if has_state else ["logits"]
    return StageFile(f"stage_{index}{suffix}", list(inputs), outputs)


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the files of the stages, in bytes."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("stage_*"))}
