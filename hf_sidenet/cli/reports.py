# SPDX-License-Identifier: Apache-2.0
"""`report.json` of a checkpoint: read, and brought up to date after another calibration."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .errors import CommandError


if TYPE_CHECKING:
    from ..attaching.checkpoint import Recalibration

REPORT = "report.json"
# Of a checkpoint without a report.
BATCH_SIZE = 32


def read_report(directory: str) -> dict[str, Any]:
    """See [`load_report`], which costs an import of torch."""
    from ..report import load_report

    return load_report(directory)


def check_version(report: dict[str, Any], directory: str) -> None:
    """Refuse a checkpoint whose report cannot be brought up to date, such as one of a training script.

    Raises:
        CommandError: it has no report, or one of another version.
    """
    from ..attaching.checkpoint import REPORT_VERSION

    version = report.get("schema_version")
    if version != REPORT_VERSION:
        got = "one without a version or none" if version is None else f"version {version}"
        raise CommandError(
            f"DIRECTORY: must have a {REPORT} of `hf-sidenet attach`, version {REPORT_VERSION}, got {got} in "
            f"{directory!r}. From Python, hf_sidenet.attaching.checkpoint.recalibrate needs none."
        )


def recalibrated(found: "Recalibration", running: dict[str, Any], trusted: bool) -> dict[str, Any]:
    """What another calibration says, of a checkpoint or of an exported folder, which has no report.

    Args:
        found ([`Recalibration`]): what changed.
        running (`dict[str, Any]`): of [`as_attached`].
        trusted (`bool`): whether labels were not held against the MainNet's answers.
    """
    calibration = found.calibration
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "settings": {
            **running,
            "target": [str(one) for one in calibration.targets],
            "confidence_level": calibration.confidence_level,
            "test_method": calibration.test,
        },
        "costs": asdict(found.costs),
        "path": [asdict(point) for point in calibration.selection.points],
        "calibration": found.config.calibration if found.verdict == "attach" else None,
        "certification": found.certification,
        "classes": {**found.rows.classes.about(), "trusted": trusted},
    }


def updated_report(
    report: dict[str, Any],
    found: "Recalibration",
    given_reference: bool,
    running: dict[str, Any],
    trusted: bool,
) -> dict[str, Any]:
    """A report with another calibration. Results on test rows were for the old θ, so they go.

    Args:
        report (`dict[str, Any]`): of the checkpoint; it stays as it is.
        found ([`Recalibration`]): what changed.
        given_reference (`bool`): whether another classifier than the MainNet inside was compared with.
        running (`dict[str, Any]`): of [`as_attached`].
        trusted (`bool`): see [`recalibrated`].
    """
    from ..evaluation.provenance import hardware, versions

    calibration, settings = found.calibration, report["settings"]
    about = recalibrated(found, running, trusted)
    changed = {
        **about,
        "settings": {
            **settings,
            **about["settings"],
            "reference": "given" if given_reference or settings["tune"] != "joint" else "tuned",
        },
        "data": {
            **{name: value for name, value in report["data"].items() if name != "test"},
            "validation": found.rows.about(),
            "num_design_rows": calibration.num_design_rows,
            "num_certification_rows": calibration.num_certification_rows,
        },
        "evaluation": None,
        "versions": versions(),
        "hardware": hardware(),
    }
    return {**report, **changed}


def as_attached(report: dict[str, Any], max_length: int | None, batch_size: int | None) -> dict[str, Any]:
    """Length and batch size: as the user says, else as when the checkpoint was made."""
    settings = report.get("settings", {})
    return {
        "max_length": settings.get("max_length") if max_length is None else max_length,
        "batch_size": batch_size or settings.get("batch_size") or BATCH_SIZE,
    }
