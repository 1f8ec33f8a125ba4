# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet export`, `push` and `demo`: a checkpoint for other runtimes, on the Hub, and in the browser."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument

from .checkpoints import is_exported, load
from .errors import WRONG, CommandError, attribute_errors_to, report_error
from .options import (
    HUB,
    OUTPUT,
    PAGE,
    DataOptions,
    Directory,
    Overwrite,
    Rows,
    SameMaxLength,
    TrustRemoteCode,
    list_option,
    option,
)
from .outcome import Outcome, refuse_source
from .texts import export_text, push_text


if TYPE_CHECKING:
    from ..data.formats import Processor
    from ..models.modeling_base import SideNetPreTrainedModel

# More rows hardly change the ranges.
CALIBRATION_ROWS = 512


def export(
    directory: Directory,
    data: Annotated[
        DataOptions,
        Rows(
            without=("labels", "trust_labels", "trust_rows"),
            flags={"train": "--calibration-file"},
            train="Training rows to calibrate the ranges of convolutions, for --int8 of a MainNet with convolutions; "
            "never the rows that certify θ:",
        ),
    ],
    *,
    max_length: SameMaxLength = None,
    format: Annotated[
        Literal["onnx", "torch"],
        option("--format", OUTPUT, "onnx: for ONNX Runtime. torch: archives of torch.export."),
    ] = "onnx",
    int8: Annotated[
        bool,
        option(
            "--int8", OUTPUT, "Quantize linear layers and convolutions of the MainNet to int8; needs --format onnx."
        ),
    ] = False,
    output_dir: Annotated[
        str, option("--output-dir", OUTPUT, "Folder for the stages, written atomically.", metavar="DIRECTORY")
    ],
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Export a checkpoint as one file per stage, for ONNX Runtime or torch.export, together with its θ.

    Every stage is compared with the model's own. int8 changes answers, so θ has no evidence behind it until
    `hf-sidenet recalibrate` calibrates the exported folder.
    """
    if is_exported(directory):
        raise CommandError(f"DIRECTORY: must be a checkpoint, got the exported folder {directory!r}.")
    if int8 and format != "onnx":
        raise CommandError(f"--int8: needs --format onnx, got --format {format}.")
    if data.given and not int8:
        raise CommandError(f"{data.option_of('train')}: is only used with --int8.")
    refuse_source(output_dir, DIRECTORY=directory, **data.sources)
    from ..export import export_onnx, export_torch
    from ..export.exported import EXPORTED
    from ..io.folders import check_free

    check_free(output_dir, EXPORTED, overwrite=overwrite)
    model, processor = load(directory, trust_remote_code=trust_remote_code)
    rows = None
    if format == "torch":
        done = export_torch(model, output_dir, processor, overwrite=overwrite)
    else:
        rows = _rows(model, processor, data, directory, max_length) if data.given else None
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
        "num_calibration_rows": None if rows is None else len(rows),
        "changed": done.changed,
        "calibrated_in": (model.config.calibration or {}).get("precision"),
    }
    return Outcome(document, export_text(document))


def push(
    directory: Annotated[
        str,
        Argument(
            metavar="DIRECTORY", help="Folder of a checkpoint with SideNets, or one made by `hf-sidenet export`."
        ),
    ],
    repo: Annotated[
        str | None,
        Argument(
            metavar="REPO", help="Repository, e.g. my-org/my-classifier. Created if missing.", show_default=False
        ),
    ] = None,
    *,
    private: Annotated[bool, option("--private", HUB, "Make a new repository private.")] = False,
    token: Annotated[
        str | None,
        option(
            "--token",
            HUB,
            "By default HF_TOKEN or the token of `hf auth login`, which other users of this machine cannot see on the "
            "command line.",
            metavar="TOKEN",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        option("--revision", HUB, "Branch, created if missing. By default the main branch.", metavar="NAME"),
    ] = None,
    message: Annotated[str | None, option("--message", HUB, "Commit message.", metavar="TEXT")] = None,
    dry_run: Annotated[
        bool, option("--dry-run", HUB, "Run all checks without contacting the Hub; REPO is optional.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Push a checkpoint to the Hub: weights, config, code, tokenizer or image processor, card, report, figures.

    First checks what would not load elsewhere and what must not be shared; if there is any, nothing is uploaded and
    the exit code is 2. Pickled files are never uploaded.
    """
    if repo is None and not dry_run:
        raise CommandError("REPO: must be given unless --dry-run is.")
    if not Path(directory).is_dir():
        raise CommandError(f"DIRECTORY: must be a folder, got {directory!r}.")
    from ..hub import check_shareable
    from ..hub.push import check_repo_id, push_checkpoint

    if repo is not None:
        check_repo_id(repo)
    found = check_shareable(directory, trust_remote_code=trust_remote_code)
    pushed = None
    if not found.ok:
        count = len(found.errors)
        first = "" if count == 1 else f" First of {count} errors:"
        report_error(CommandError(f"DIRECTORY: would not load elsewhere.{first} {found.errors[0]}"))
    elif repo is not None and not dry_run:
        pushed = push_checkpoint(
            directory, repo, private=private or None, token=token, revision=revision, message=message
        )
    document = {
        **asdict(found),
        "repo": repo,
        "revision": revision,
        "dry_run": dry_run,
        "pushed": None if pushed is None else asdict(pushed),
    }
    return Outcome(document, push_text(document, found.text()), 0 if found.ok else WRONG)


def demo(
    directory: Directory,
    *,
    example: Annotated[
        list[str] | None, list_option("--example", PAGE, "Texts, or paths of images, to click on.", "TEXT")
    ] = None,
    pair: Annotated[bool, option("--pair", PAGE, "Each row is a pair of texts.")] = False,
    labels: Annotated[
        list[str] | None,
        list_option("--labels", PAGE, "Names of the classes in files, in the order of the outputs.", "NAME"),
    ] = None,
    title: Annotated[str | None, option("--title", PAGE, "By default the name of DIRECTORY.", metavar="TEXT")] = None,
    host: Annotated[
        str, option("--host", PAGE, "Address to listen on; 0.0.0.0 accepts other machines.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        option("--port", PAGE, "By default the first free port from 7860.", min=1, max=65535, metavar="NUMBER"),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Try out a checkpoint in the browser: type a sentence or drop an image, move θ, and see which exit answered,
    its confidence and what was saved; or classify a whole file.

    Listens on this machine only, unless --host says otherwise. Stop it with Ctrl-C.
    """
    examples = example or []
    if is_exported(directory):
        raise CommandError(f"DIRECTORY: must be a checkpoint, got the exported folder {directory!r}.")
    if pair and len(examples) % 2:
        raise CommandError(f"--example: must be given twice per pair, got {len(examples)}.")
    from ..demo import build_demo, launch

    given = list(zip(examples[::2], examples[1::2], strict=True)) if pair else examples
    with attribute_errors_to("DIRECTORY", besides=("examples", "labels")):
        page = build_demo(
            directory,
            is_pair=pair,
            title=title,
            examples=given,
            labels=labels or None,
            trust_remote_code=trust_remote_code,
        )
    address = launch(page, host=host, port=port)
    return Outcome({"checkpoint": directory, "address": address}, f"{address} was stopped.")


def _rows(
    model: "SideNetPreTrainedModel", processor: "Processor", data: DataOptions, directory: str, max_length: int | None
) -> list[Any]:
    """Return calibration rows as model inputs, evenly spaced over the file."""
    from ..data.rows import prepare_rows
    from ..inference.rows import evenly_spaced
    from ..report import Report

    splits, columns = data.load(("train",))
    length = Report.load(directory).max_length(max_length)
    # Labels are not needed here.
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
