# SPDX-License-Identifier: Apache-2.0
"""Check a folder the way others will load it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..calibration import check_evidence
from ..data import processor_in
from ..export.exported import MANIFEST, ONNX, TORCH, ExportedAbout, Manifest, read_config
from ..export.torch_export import SUFFIX, check_archive
from ..inference.certificate import why_not_certified
from ..inference.classes import model_class
from ..io.json import read_json
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.mainnet_code import known_code
from ..models.modalities import MODALITIES
from ..report import REPORT, Report
from ..report.guarantee import GUARANTEE
from .code import check_code, check_weights
from .findings import Shareable
from .shared_files import LINK, leading_out, shared_files


CARD = "README.md"
BINARY = (".safetensors", ".onnx", ".data", ".pt2", ".png", ".jpg", ".jpeg", ".model")
BLOCK = 1 << 20
VOCABULARIES = ("tokenizer.json", "vocab.json")
TEMPLATE = "[More Information Needed]"
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
# The shortest match, plus the character before it.
TOKEN_LENGTH = 34
ABSOLUTE = re.compile(r"(/|~|file:|[A-Za-z]:[\\/]|\\\\)")

AGAIN = (
    "Calibrate it again (`hf-sidenet recalibrate`), or share it without evidence and card: "
    "`model.config.calibration = None`, `model.save_pretrained`."
)
CONFIG = "config.json"
PROCESSOR_FILES = {
    "text": ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    "image": ("preprocessor_config.json", "processor_config.json"),
}


def check_card(folder: Path, found: Shareable) -> None:
    """Check the model card, as the Hub reads it."""
    if CARD not in found.files:
        found.warnings.append(
            f"there is no model card, {CARD}: others will not know what this is and what θ guarantees."
        )
        return
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        card = ModelCard(text, ignore_metadata_errors=False)
        data: Any = card.data
        results = data.eval_results
    # ModelCard passes on any error of its YAML parser.
    except Exception as error:
        found.errors.append(f"{CARD} has metadata that the Hub rejects: {' '.join(str(error).split())}")
        return
    if TEMPLATE in text:
        found.warnings.append(f"{CARD} is an unfinished template: it contains {TEMPLATE!r}.")
    if not results:
        found.warnings.append(f"{CARD} has no `model-index`: the Hub will show no results.")
    if data.license is None:
        found.notes.append(f"{CARD} names no license, so others may not use it.")
    for picture in re.findall(r"!\[[^\]]*\]\(((?!https?:)[^)\s]+)\)", text):
        if picture.removeprefix("./") not in found.files:
            found.warnings.append(f"{CARD} shows {picture}, which is not uploaded.")


def check_report(folder: Path, found: Shareable) -> None:
    """Check `report.json`, which commands read, so that a damaged one is worse than none."""
    if REPORT in found.files:
        try:
            Report.read(folder / REPORT)
        except ValueError as error:
            found.errors.append(str(error))


def check_secrets(folder: Path, found: Shareable) -> None:
    """Check for tokens and paths of this machine."""
    home, parent = Path.home(), folder.resolve().parent
    places = {f"{place}/".encode() for place in (home, parent) if len(place.parts) > (1 if place == home else 2)}
    for name in found.files:
        if name.lower().endswith(BINARY):
            continue
        has_token, has_place = _scan(folder / name, places)
        if has_token:
            found.errors.append(f"{name} contains what looks like a Hub token (hf_...). Remove it, and revoke it.")
        told = False
        if name.lower().endswith(".json") and Path(name).name not in VOCABULARIES:
            for key, value in _paths(_json(folder / name)):
                told = True
                found.errors.append(
                    f"{name}: `{key}` is {value!r}, a path of this machine, which nobody else has. Remove the key."
                )
        if has_place and not told:
            found.warnings.append(f"{name} contains a path of this machine. Check it before you share it.")


def _scan(path: Path, places: set[bytes]) -> tuple[bool, bool]:
    """Return whether a file contains a token, and whether one of the places; in blocks, since it may be large."""
    overlap = max(map(len, places), default=0) + TOKEN_LENGTH
    has_token = has_place = False
    # Every search starts after one byte, so that the regex can check for a word boundary.
    window = b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            window = window[-overlap:] + block
            has_token = has_token or TOKEN.search(window, 1) is not None
            has_place = has_place or any(place in window for place in places)
    return has_token, has_place


def _json(path: Path) -> Any:
    """Read a JSON file; return `None` if it is missing or not valid JSON."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _paths(document: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys and values that are paths of this machine."""
    waiting = [("", document)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(key, item) for item in reversed(value)]
        # Classes may have names like "/m/04rlf": under other keys, only existing paths count.
        elif (
            isinstance(value, str)
            and ABSOLUTE.match(value)
            and (key.rpartition(".")[2].removeprefix("_") == "name_or_path" or _exists(value))
        ):
            yield key, value


def _exists(value: str) -> bool:
    at_home = value.startswith("~")
    try:
        # "/", "/m" and "~" are more likely names than paths, even if they exist.
        return len(Path(value).parts) > (1 if at_home else 2) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def check_certified(
    folder: Path, config: SideNetConfig, manifest: Manifest | None, found: Shareable, *, trust_remote_code: bool
) -> None:
    """Compare the weights with those for which θ was certified.

    A checkpoint's weights are loaded with this package's own classes; for an exported folder, file hashes suffice.

    Args:
        folder (`Path`): a checkpoint or an exported folder without other errors.
        config ([`SideNetConfig`]): its config; without evidence, nothing is compared.
        manifest ([`Manifest`], *optional*): manifest of an exported folder.
        found ([`Shareable`]): collects the findings.
        trust_remote_code (`bool`): whether the MainNet's own code may run.
    """
    if config.calibration is None:
        return
    if manifest is not None:
        _compare(ExportedAbout(config, manifest), processor_in(str(folder), MODALITIES[manifest.modality]), found)
        return
    if config.mainnet_code is not None and not trust_remote_code and known_code(config.mainnet_code) is None:
        found.warnings.append(
            "the evidence behind θ was not compared with the weights, which needs the MainNet's own code: "
            "`trust_remote_code` runs it."
        )
        return
    try:
        model = model_class(config).from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    except ImportError as error:
        found.warnings.append(f"the evidence behind θ was not compared with the weights: {_line(error)}")
        return
    # Building a MainNet from mismatched config and weights can raise anything.
    except Exception as error:
        found.errors.append(f"the checkpoint cannot be loaded: {type(error).__name__}: {_line(error)}")
        return
    _compare(model, processor_in(str(folder), model.modality), found)


def check_promises(folder: Path, config: SideNetConfig, found: Shareable) -> None:
    """Check that card and report guarantee only what config.json has evidence for.

    Args:
        folder (`Path`): the checkpoint.
        config ([`SideNetConfig`]): its config.
        found ([`Shareable`]): collects the findings.
    """
    report = _json(folder / REPORT) if REPORT in found.files else None
    promised = report.get("calibration") if isinstance(report, dict) else None
    if promised is not None and promised != config.calibration:
        found.errors.append(
            f"{REPORT} has evidence behind θ that config.json lacks: it is from another model. {AGAIN}"
        )
    elif config.calibration is None and CARD in found.files and _promises(folder / CARD):
        found.errors.append(f"{CARD} has a guarantee, but config.json has no evidence for it. {AGAIN}")


def _compare(served: Any, processor: Any, found: Shareable) -> None:
    reason = why_not_certified(served, processor)
    if reason is not None:
        found.errors.append(f"config.json has evidence that does not cover this folder: {reason}. {AGAIN}")


def _promises(card: Path) -> bool:
    try:
        return GUARANTEE in card.read_text(encoding="utf-8").splitlines()
    # Reported by the check of the card.
    except ValueError:
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def check_shareable(directory: str | os.PathLike, *, trust_remote_code: bool = False) -> Shareable:
    """Check a checkpoint or an exported folder for anything that would not load elsewhere, is missing, or is private.

    If there is evidence behind θ, the weights are loaded with this package's own classes, to check that the evidence
    covers them. Nothing else is run, sent or changed.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the MainNet's own code may run, without which its weights are not compared.

    Returns:
        [`Shareable`]: findings, with everything that would be uploaded and the hashes of the code.

    Raises:
        ValueError: `directory` is not a folder.

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
        raise ArgumentError("directory", "must be a folder", str(directory))
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
        check_certified(folder, config, manifest, found, trust_remote_code=trust_remote_code)
    return found


def _check_checkpoint(folder: Path, found: Shareable) -> SideNetConfig | None:
    config = _config(folder, found)
    raw = _json(folder / CONFIG)
    auto_map = raw.get("auto_map") if isinstance(raw, dict) else None
    if config is not None and not (isinstance(auto_map, dict) and {"AutoConfig", "AutoModel"} <= set(auto_map)):
        found.errors.append(
            f"{CONFIG} must have an `auto_map` with AutoConfig and AutoModel, got {auto_map!r}: without it, the "
            "checkpoint loads only if hf_sidenet is installed. save_pretrained writes it."
        )
    check_code(folder, _auto_maps(folder), None if config is None else config.mainnet_code, found)
    check_weights(folder, config, found)
    return config


def _check_exported(folder: Path, found: Shareable) -> tuple[SideNetConfig | None, Manifest | None]:
    """Check a folder written by [`export_onnx`] or [`export_torch`]."""
    document = _json(folder / MANIFEST)
    format = TORCH if isinstance(document, dict) and document.get("format") == TORCH else ONNX
    try:
        manifest = Manifest.read(folder, format)
        config = read_config(folder)
    except ValueError as error:
        found.errors.append(str(error))
        return None, None
    found.errors.extend(
        f"{name} is listed in {MANIFEST}, but files of this name are never uploaded."
        for name in manifest.sha256
        if name not in found.files
    )
    programs = {stage.file for stage in manifest.stages} if format == TORCH else set()
    programs |= {name for name in found.files if name.lower().endswith(SUFFIX)}
    for name in sorted(programs):
        _check_program(folder / name, found)
    if len(manifest.stages) != config.num_exits:
        found.errors.append(
            f"{MANIFEST} has {len(manifest.stages)} stages, but {CONFIG} has {len(config.exit_layers)} SideNets."
        )
    if format == TORCH:
        found.notes.append("torch.export programs can run code when loaded: others have to trust you.")
    return config, manifest


def _check_program(path: Path, found: Shareable) -> None:
    try:
        check_archive(path)
    # zipfile raises many errors: unknown compression, a password, a truncated stream.
    except Exception as error:
        what = " ".join(str(error).split())
        found.errors.append(what if path.name in what else f"{path.name} must be a torch.export archive: {what}")


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
        document = _json(folder / name)
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
        found.warnings.append(f"there is no {what}: `pipeline` does not work, and others have to guess the inputs.")
    if timm:
        found.notes.append("the MainNet is from timm, which others have to install.")
    if config.calibration is None:
        found.notes.append("θ has no evidence behind it: config.json has no `calibration`.")
    else:
        try:
            check_evidence(config.calibration)
        except ValueError as error:
            found.errors.append(str(error))
    if all(threshold >= 1 for threshold in config.thresholds):
        found.notes.append("no row exits early: every θ is ≥ 1.")
