# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet recalibrate`: new θ for a checkpoint, for another precision of it, or for what was exported from it."""

from pathlib import Path

from .attaching import enough_rows
from .checkpoints import load, load_reference
from .data import DataOptions
from .errors import DO_NOT_ATTACH, CommandError, blaming
from .exported import MANIFEST, is_exported, load_exported
from .outcome import Outcome, refuse_source
from .reports import as_attached, check_version, read_report, recalibrated, updated_report
from .texts import recalibrate_text


def recalibrate_command(
    directory: str,
    data: DataOptions,
    *,
    checkpoint: str | None,
    target: list[str],
    confidence_level: float,
    test_method: str,
    reference: str | None,
    dtype: str | None,
    max_length: int | None,
    batch_size: int | None,
    output_dir: str | None,
    overwrite: bool,
) -> Outcome:
    """New θ for a checkpoint or an exported folder, which is written again; see [`recalibrate`]."""
    _check_places(directory, data, checkpoint, output_dir, overwrite)
    exported = _is_exported(directory, checkpoint, dtype)
    from ..attaching.checkpoint import DEFAULT_FRACTION, recalibrate
    from ..calibration import parse_targets
    from ..export.exported import EXPORTED
    from ..hub.push import CHECKPOINT, READ_NAMES, is_same_folder, save_checkpoint, save_recalibrated
    from ..hub.shared_files import refuse_links
    from ..io.folders import check_free

    parse_targets(target)
    if exported:
        refuse_links(directory)
    where = output_dir or directory
    kind, names = (EXPORTED, EXPORTED.names) if exported else (CHECKPOINT, READ_NAMES)
    check_free(where, kind, overwrite=overwrite, read=names if is_same_folder(where, directory) else ())
    source = checkpoint or directory
    model, processor = load(source, "--checkpoint" if exported else "DIRECTORY")
    report = read_report(source)
    stages = load_exported(directory) if exported else None
    if not exported:
        check_version(report, directory)
    compared = load_reference(model, reference)
    known = data.dataset_name is not None or data.files["train"] is not None
    splits, columns = data.load(("validation",), ("train",) if known else ())
    running = as_attached(report, max_length, batch_size)
    fraction = (model.config.calibration or {}).get("certification_fraction", DEFAULT_FRACTION)
    with (
        enough_rows(data.spelt("validation"), fraction),
        data.blaming(),
        blaming("--checkpoint: must be what DIRECTORY was exported from", when="`stages` and `model`"),
    ):
        found = recalibrate(
            model,
            processor,
            splits["validation"],
            target=target,
            confidence_level=confidence_level,
            test_method=test_method,
            train=splits.get("train"),
            reference=compared,
            dtype=dtype,
            stages=stages,
            columns=columns,
            **data.about_labels,
            trust_rows=data.trust_rows,
            **running,
        )
    attached = found.verdict == "attach"
    if exported:
        about = recalibrated(found, running, data.trust_labels)
        if attached:
            save_recalibrated(where, directory, found.config, overwrite=overwrite)
    else:
        about = updated_report(report, found, compared is not None, running, data.trust_labels)
        if attached:
            save_checkpoint(where, found.model, processor, about, overwrite=overwrite, source=directory)
    shown = ("verdict", "reason", "settings", "costs", "path", "calibration", "certification", "classes")
    document = {
        **{name: about[name] for name in shown},
        "data": {"validation": found.rows.about()},
        "precision": found.precision,
        "checkpoint": directory,
        "output_dir": where if attached else None,
        **{name: getattr(found.config, name) for name in ("exit_layers", "pooling", "thresholds", "temperatures")},
    }
    return Outcome(document, recalibrate_text(document), 0 if attached else DO_NOT_ATTACH)


def _check_places(
    directory: str, data: DataOptions, checkpoint: str | None, output_dir: str | None, overwrite: bool
) -> None:
    if output_dir is None and not overwrite:
        raise CommandError("--output-dir: must be given, or --overwrite to change DIRECTORY itself.")
    if output_dir is None and not Path(directory).is_dir():
        raise CommandError(f"--output-dir: must be given where DIRECTORY is no folder, got {directory!r}.")
    read = {f"--{split}-file": path for split, path in data.files.items()} | {"--checkpoint": checkpoint}
    refuse_source(output_dir or directory, **read)
    if output_dir is not None and Path(output_dir).resolve() != Path(directory).resolve():
        refuse_source(output_dir, DIRECTORY=directory)


def _is_exported(directory: str, checkpoint: str | None, dtype: str | None) -> bool:
    exported = is_exported(directory)
    if exported and checkpoint is None:
        raise CommandError(f"--checkpoint: must be given for an exported DIRECTORY, got {directory!r} alone.")
    if exported and dtype is not None:
        raise CommandError(f"--dtype: must not be given for an exported DIRECTORY, got {dtype!r}.")
    if checkpoint is not None and not exported:
        raise CommandError(f"--checkpoint: goes with an exported DIRECTORY, one with {MANIFEST}, got {directory!r}.")
    return exported
