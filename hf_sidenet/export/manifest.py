# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of an exported folder: which file is which stage, what goes in and comes out, and that the files are
those that were written."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..io.files import sha256
from ..io.folder_kinds import PROCESSOR_NAMES, FolderKind
from ..models.modalities import IMAGE, MODALITIES, TEXT


MANIFEST = "manifest.json"
EXPORTED = FolderKind(
    document=MANIFEST,
    marks=("format", "stages", "sha256"),
    names=("config.json", "stage_*.onnx", "stage_*.data", "stage_*.pt2", *PROCESSOR_NAMES),
)
# It rises when a field changes its meaning.
VERSION = 1
ONNX, TORCH = "onnx", "torch"
DTYPES = ("float32", "float16", "bfloat16", "float64")
PACKAGES = ("hf_sidenet", "torch", "transformers", "timm", "onnx", "onnxscript", "onnxruntime")


def is_exported(directory: str | os.PathLike) -> bool:
    """Whether a folder was written by `hf-sidenet export`.

    Args:
        directory (`str` or `os.PathLike`): folder, or anything else.
    """
    return (Path(directory) / MANIFEST).is_file()


@dataclass(frozen=True)
class StageFile:
    """One stage of an exported folder.

    Args:
        file (`str`): its name.
        inputs (`list[str]`): the tensors that it needs, in order; `"hidden"` is x_c where it starts.
        outputs (`list[str]`): what it gives, in order: x_c where it ends, but for the last stage, and the logits.
    """

    file: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class Manifest:
    """What is in an exported folder.

    Args:
        format (`str`): `"onnx"` or `"torch"`.
        format_version (`int`): of this file.
        precision (`str`): in which the stages compute: `"float32"`, `"int8"`, ...
        dtype (`str`): of x_c, images and logits.
        modality (`str`): `"text"`, which has a second free axis, its tokens, or `"image"`.
        input_names (`list[str]`): inputs that the chain takes; some may be needed by no stage.
        max_length (`int`, *optional*): tokens of the longest text; `None` where there is no limit, and for images.
        stages (`list[StageFile]`): in order.
        sha256 (`dict[str, str]`): of every file that belongs to a stage, in hexadecimal.
        versions (`dict[str, str]`): of the packages that wrote it.
        weights (`str`, *optional*): fingerprint of those that were exported; `None` in a folder that does not tell.
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

    def write(self, directory: str | os.PathLike) -> None:
        """Write it into the folder of the stages."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (Path(directory) / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: str | os.PathLike, format: str) -> "Manifest":
        """Read it, and check everything that it says of the folder.

        Args:
            directory (`str` or `os.PathLike`): exported folder.
            format (`str`): the format to expect.

        Raises:
            ValueError: the folder is of another format or version, or is damaged.
        """
        path = Path(directory) / MANIFEST
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"`directory` must be an exported folder, with {MANIFEST}, got {str(directory)!r}."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(directory, f"{MANIFEST} cannot be read ({error})") from error
        if not isinstance(document, dict):
            raise _damaged(directory, f"{MANIFEST} holds a {type(document).__name__}")
        if document.get("format") != format or document.get("format_version") != VERSION:
            raise ValueError(
                f"`directory` must be an exported folder of format {format!r}, version {VERSION}, got "
                f"{document.get('format')!r}, version {document.get('format_version')!r}, in {str(directory)!r}."
            )
        if "modality" not in document:
            # Folders of version 0.1 say whether they read texts.
            document["modality"] = {True: TEXT.name, False: IMAGE.name}.get(document.get("is_text"))
        wrong = _wrong_field(document)
        if wrong is not None:
            raise _damaged(directory, f"{MANIFEST} has an impossible {wrong}")
        stages = [StageFile(**stage) for stage in document["stages"]]
        manifest = cls(**{**{field.name: document.get(field.name) for field in fields(cls)}, "stages": stages})
        for name, expected in manifest.sha256.items():
            if not (Path(directory) / name).is_file():
                raise _damaged(directory, f"{name} is missing")
            if sha256(Path(directory) / name) != expected:
                raise _damaged(directory, f"{name} is not the file that was written")
        return manifest


def package_versions() -> dict[str, str]:
    """Of what writes exported folders, as far as it is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _damaged(directory: str | os.PathLike, what: str) -> ValueError:
    return ValueError(f"`directory` {str(directory)!r} is damaged: {what}. Export it again.")


def _wrong_field(document: dict[str, Any]) -> str | None:
    """The name of a field whose value cannot be."""
    stages, names, hashes = (document.get(name) for name in ("stages", "input_names", "sha256"))
    length = document.get("max_length", 0)
    rules = {
        "precision": isinstance(document.get("precision"), str),
        "dtype": document.get("dtype") in DTYPES,
        "modality": document.get("modality") in MODALITIES,
        "input_names": _are_strings(names) and len(names) > 0,
        "max_length": length is None or (type(length) is int and length > 0),
        "sha256": isinstance(hashes, dict) and _are_strings([*hashes.values()]) and all(map(_is_plain, hashes)),
        "versions": isinstance(document.get("versions"), dict),
        "weights": isinstance(document.get("weights"), str | None),
    }
    for name, holds in rules.items():
        if not holds:
            return name
    if not isinstance(stages, list) or len(stages) < 2:
        return "stages"
    for index, stage in enumerate(stages):
        if not _is_stage(stage, names, hashes, is_first=index == 0, is_last=index == len(stages) - 1):
            return f"stage {index}"
    if len({stage["file"] for stage in stages}) < len(stages):
        return "list of stages, which names one file twice"
    return None


def _is_stage(stage: Any, names: Sequence[str], hashes: dict[str, str], *, is_first: bool, is_last: bool) -> bool:
    if not isinstance(stage, dict) or set(stage) != {field.name for field in fields(StageFile)}:
        return False
    if not (_are_strings(stage["inputs"]) and _are_strings(stage["outputs"]) and isinstance(stage["file"], str)):
        return False
    known = set(names) if is_first else {*names, "hidden"}
    inputs = stage["inputs"]
    return (
        stage["file"] in hashes
        and len(inputs) == len(set(inputs)) > 0
        and set(inputs) <= known
        and (is_first or "hidden" in inputs)
        and len(stage["outputs"]) == (1 if is_last else 2)
    )


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder."""
    return name not in ("", ".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))
