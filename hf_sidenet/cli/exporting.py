# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet export`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .checkpoints import load
from .data import DataOptions
from .errors import CommandError
from .exported import is_exported
from .outcome import Outcome, refuse_source
from .reports import as_attached, read_report
from .tables import aligned


if TYPE_CHECKING:
    from ..models.modeling_base import SideNetPreTrainedModel

RUNTIMES = {"onnx": "ONNX Runtime", "torch": "torch.export"}
# More show hardly any other ranges.
CALIBRATION_ROWS = 512


def export_command(
    directory: str,
    data: DataOptions,
    *,
    format: str,
    int8: bool,
    max_length: int | None,
    output_dir: str,
    overwrite: bool,
) -> Outcome:
    """Export a checkpoint; see [`export_onnx`] and [`export_torch`]. `data` has calibration rows as `"train"`."""
    has_rows = data.dataset_name is not None or data.files["train"] is not None
    if is_exported(directory):
        raise CommandError(f"DIRECTORY: must be a checkpoint, got the folder {directory!r}, which was exported.")
    if int8 and format != "onnx":
        raise CommandError(f"--int8: needs --format onnx, got --format {format}.")
    if has_rows and not int8:
        raise CommandError(f"{_spelt(data)}: needs --int8, which nothing else is calibrated for.")
    refuse_source(output_dir, DIRECTORY=directory, **{_spelt(data): data.dataset_name or data.files["train"]})
    from ..export import export_onnx, export_torch
    from ..export.exported import EXPORTED
    from ..io.folders import check_free

    check_free(output_dir, EXPORTED, overwrite=overwrite)
    model, processor = load(directory)
    if format == "torch":
        done = export_torch(model, output_dir, processor, overwrite=overwrite)
    else:
        rows = _rows(model, processor, data, directory, max_length) if has_rows else None
        done = export_onnx(
            model, output_dir, processor=processor, int8=int8, calibration_rows=rows, overwrite=overwrite
        )
    document = {
        "checkpoint": directory,
        "output_dir": output_dir,
        "format": format,
        "precision": "int8" if int8 else str(model.dtype).removeprefix("torch."),
        "files": done.files,
        "largest_difference": done.largest_difference,
        "num_calibration_rows": None if not has_rows else len(rows),
        "changed": done.changed,
        "calibrated_in": (model.config.calibration or {}).get("precision"),
    }
    return Outcome(document, export_text(document))


def export_text(document: Mapping[str, Any]) -> str:
    """What [`export_command`] did."""
    files, precision = document["files"], document["precision"]
    table = [[name, f"{size / 1e6:.1f}"] for name, size in files.items()]
    parts = [
        f"{document['checkpoint']} for {RUNTIMES[document['format']]}, in {precision}.",
        aligned(["file", "MB"], [*table, ["together", f"{sum(files.values()) / 1e6:.1f}"]]),
        f"Largest difference from the model's own x_c and logits, on rows of noise: "
        f"{document['largest_difference']:.1e} of the largest value{' (before int8)' if precision == 'int8' else ''}.",
    ]
    if document["changed"] is not None:
        names = [*(f"SideNet {i}" for i in range(len(document["changed"]) - 1)), "MainNet"]
        shares = ", ".join(
            f"{name} {100 * share:.1f} %" for name, share in zip(names, document["changed"], strict=True)
        )
        parts.append(
            f"Of {document['num_calibration_rows']:,} calibration rows, the exits answer with another class than "
            f"before: {shares}."
        )
    if precision == "int8":
        chosen = document["calibrated_in"] or "another precision"
        parts.append(
            f"θ was chosen in {chosen}: in int8 there is no evidence behind it. To certify θ in int8: hf-sidenet "
            f"recalibrate {document['output_dir']} --checkpoint {document['checkpoint']} ..."
        )
    parts.append(f"Written to {document['output_dir']}")
    return "\n\n".join(parts)


def _rows(
    model: "SideNetPreTrainedModel", processor: Any, data: DataOptions, directory: str, max_length: int | None
) -> list[Any]:
    """Calibration rows as model inputs, from all over the file."""
    from ..data.rows import prepare_rows
    from ..inference.rows import evenly_spaced

    with _calling_them_calibration_rows():
        splits, columns = data.load(("train",))
    length = as_attached(read_report(directory), max_length, None)["max_length"]
    # Which class a row is does not matter here.
    prepared = prepare_rows(
        {"train": splits["train"].remove_columns(columns.label)},
        model.config,
        processor,
        modality=model.modality,
        columns=columns,
        max_length=length,
        skip_bad_rows=data.skip_bad_rows,
    )["train"]
    return [prepared.dataset[i] for i in evenly_spaced(len(prepared), CALIBRATION_ROWS)]


@contextmanager
def _calling_them_calibration_rows() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("`train_file`", "`calibration_file`")) from error


def _spelt(data: DataOptions) -> str:
    return "--calibration-file" if data.dataset_name is None else "--dataset-name"
