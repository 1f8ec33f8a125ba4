# SPDX-License-Identifier: Apache-2.0
"""Look at a folder as somebody will who loads it elsewhere."""

import os
from pathlib import Path
from typing import Any

from ..calibration import check_evidence
from ..export.exported import read_config
from ..export.manifest import MANIFEST, ONNX, TORCH, Manifest
from ..export.torch_export import SUFFIX, check_archive
from ..inference.classes import model_class
from ..models.configuration_sidenet import SideNetConfig
from .code import check_code
from .evidence import check_certified, check_promises
from .findings import Shareable
from .shared_files import LINK, leading_out, shared_files
from .weights import check_weights
from .words import check_card, check_report, check_secrets, read_json


CONFIG = "config.json"
PROCESSOR_FILES = {
    "text": ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    "image": ("preprocessor_config.json", "processor_config.json"),
}


def check_shareable(directory: str | os.PathLike) -> Shareable:
    """Say what of a checkpoint or an exported folder would not load elsewhere, would be missed, or must not travel.
    Where there is evidence behind θ, weights are loaded, by this package's own classes, to see whether it is about
    them. Nothing else is run, and nothing sent or changed.

    Args:
        directory (`str` or `os.PathLike`): the folder.

    Returns:
        [`Shareable`]: with everything that would be uploaded, and the hashes of the code.

    Raises:
        ValueError: `directory` is no folder.

    Example:

    ```python
    >>> from hf_sidenet.hub import check_shareable

    >>> found = check_shareable("my-classifier-sidenet")
    >>> found.errors
    []
    >>> print(found.text())
    ```
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ValueError(f"`directory` must be a folder, got {str(directory)!r}.")
    found = Shareable(str(directory))
    names, left_out = shared_files(folder)
    found.files.update({name: (folder / name).stat().st_size for name in names})
    found.left_out.extend(left_out)
    found.errors.extend(LINK.format(name) for name in leading_out(folder))
    manifest = None
    if (folder / MANIFEST).is_file():
        config, manifest = _check_exported(folder, found)
    else:
        config = _check_checkpoint(folder, found)
    if config is not None:
        _check_config(config, found)
    check_card(folder, found)
    check_report(folder, found)
    check_secrets(folder, found)
    if config is not None and found.ok:
        check_promises(folder, config, found)
        check_certified(folder, config, manifest, found)
    return found


def _check_checkpoint(folder: Path, found: Shareable) -> SideNetConfig | None:
    config = _config(folder, found)
    raw = read_json(folder / CONFIG)
    auto_map = raw.get("auto_map") if isinstance(raw, dict) else None
    if config is not None and not (isinstance(auto_map, dict) and {"AutoConfig", "AutoModel"} <= set(auto_map)):
        found.errors.append(
            f"{CONFIG} must have an `auto_map` with AutoConfig and AutoModel, got {auto_map!r}: without it the "
            "checkpoint loads only where hf_sidenet is installed. save_pretrained writes it."
        )
    check_code(folder, _auto_maps(folder), found)
    check_weights(folder, config, found)
    return config


def _check_exported(folder: Path, found: Shareable) -> tuple[SideNetConfig | None, Manifest | None]:
    """What [`export_onnx`] or [`export_torch`] wrote."""
    document = read_json(folder / MANIFEST)
    format = TORCH if isinstance(document, dict) and document.get("format") == TORCH else ONNX
    try:
        manifest = Manifest.read(folder, format)
        config = read_config(folder)
    except ValueError as error:
        found.errors.append(str(error))
        return None, None
    found.errors.extend(
        f"{name} belongs to {MANIFEST}, but files of this name are never uploaded."
        for name in manifest.sha256
        if name not in found.files
    )
    programs = {stage.file for stage in manifest.stages} if format == TORCH else set()
    programs |= {name for name in found.files if name.lower().endswith(SUFFIX)}
    for name in sorted(programs):
        _check_program(folder / name, found)
    if len(manifest.stages) != config.num_exits:
        found.errors.append(
            f"{MANIFEST} has {len(manifest.stages)} stages, but {CONFIG} {len(config.exit_layers)} SideNets."
        )
    if format == TORCH:
        found.notes.append("programs of torch.export can run code where they are loaded: others have to trust you.")
    return config, manifest


def _check_program(path: Path, found: Shareable) -> None:
    try:
        check_archive(path)
    # The reader of zip files raises what it meets: unknown compression, a password, a cut stream.
    except Exception as error:
        what = " ".join(str(error).split())
        found.errors.append(what if path.name in what else f"{path.name} must be an archive of torch.export: {what}")


def _config(folder: Path, found: Shareable) -> SideNetConfig | None:
    if CONFIG not in found.files:
        found.errors.append(f"{CONFIG} is missing.")
        return None
    try:
        return read_config(folder)
    except ValueError as error:
        found.errors.append(str(error))
        return None


def _auto_maps(folder: Path) -> dict[str, Any]:
    together: dict[str, Any] = {}
    for name in (CONFIG, "tokenizer_config.json", *PROCESSOR_FILES["image"]):
        document = read_json(folder / name)
        if isinstance(document, dict) and isinstance(document.get("auto_map"), dict):
            together |= document["auto_map"]
    return together


def _check_config(config: SideNetConfig, found: Shareable) -> None:
    try:
        modality = model_class(config).modality
    except ValueError as error:
        found.errors.append(f"{CONFIG}: {error}")
        return
    timm = config.mainnet_config.model_type == "timm_wrapper"
    if not timm and not any(name in found.files for name in PROCESSOR_FILES[modality.name]):
        what = modality.processor_name
        found.warnings.append(f"there is no {what}: pipeline does not work, and others have to guess the inputs.")
    if timm:
        found.notes.append("the MainNet is of timm, which others have to install.")
    if config.calibration is None:
        found.notes.append("θ has no evidence behind it: config.json has no `calibration`.")
    else:
        try:
            check_evidence(config.calibration)
        except ValueError as error:
            found.errors.append(str(error))
    if all(threshold >= 1 for threshold in config.thresholds):
        found.notes.append("nobody leaves early: every θ is ≥ 1.")
