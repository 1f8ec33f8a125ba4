# SPDX-License-Identifier: Apache-2.0
"""The evidence behind θ, held against the folder in which it stands."""

from pathlib import Path
from typing import Any

from ..data import processor_in
from ..export.exported import ExportedAbout
from ..export.manifest import Manifest
from ..inference.certificate import why_not_certified
from ..inference.classes import model_class
from ..models.configuration_sidenet import SideNetConfig
from ..models.modalities import MODALITIES
from ..report.guarantee import GUARANTEE
from .findings import Shareable
from .words import CARD, REPORT, read_json


AGAIN = (
    "Calibrate it again (`hf-sidenet recalibrate`), or share it without evidence and card: "
    "`model.config.calibration = None`, `model.save_pretrained`."
)


def check_certified(folder: Path, config: SideNetConfig, manifest: Manifest | None, found: Shareable) -> None:
    """Compare the weights with those for which θ was certified. Of a checkpoint they are loaded, by this package's own
    classes; of an exported folder the hashes of the files tell.

    Args:
        folder (`Path`): a checkpoint or an exported folder that has no other errors.
        config ([`SideNetConfig`]): its own; without evidence nothing is compared.
        manifest ([`Manifest`], *optional*): of an exported folder.
        found ([`Shareable`]): gets what is found.
    """
    if config.calibration is None:
        return
    if manifest is not None:
        _compare(ExportedAbout(config, manifest), processor_in(str(folder), MODALITIES[manifest.modality]), found)
        return
    try:
        model = model_class(config).from_pretrained(folder).eval()
    except ImportError as error:
        found.warnings.append(f"the evidence behind θ was not compared with the weights: {_line(error)}")
        return
    # What a MainNet does that is built from a config and weights which do not fit.
    except Exception as error:
        found.errors.append(f"the checkpoint cannot be loaded: {type(error).__name__}: {_line(error)}")
        return
    _compare(model, processor_in(str(folder), model.modality), found)


def check_promises(folder: Path, config: SideNetConfig, found: Shareable) -> None:
    """Card and report promise what config.json has evidence for, and nothing else.

    Args:
        folder (`Path`): the checkpoint.
        config ([`SideNetConfig`]): its own.
        found ([`Shareable`]): gets what is found.
    """
    report = read_json(folder / REPORT) if REPORT in found.files else None
    promised = report.get("calibration") if isinstance(report, dict) else None
    if promised is not None and promised != config.calibration:
        found.errors.append(
            f"{REPORT} has evidence behind θ that config.json has not: it is of another model. {AGAIN}"
        )
    elif config.calibration is None and CARD in found.files and _promises(folder / CARD):
        found.errors.append(f"{CARD} has a guarantee, but config.json no evidence for it. {AGAIN}")


def _compare(served: Any, processor: Any, found: Shareable) -> None:
    reason = why_not_certified(served, processor)
    if reason is not None:
        found.errors.append(f"config.json has evidence that is not about this folder: {reason}. {AGAIN}")


def _promises(card: Path) -> bool:
    try:
        return GUARANTEE in card.read_text(encoding="utf-8").splitlines()
    # Said of the card itself.
    except ValueError:
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
