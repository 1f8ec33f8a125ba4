# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet attach` and `recalibrate`: θ with a guarantee, for a new or an existing checkpoint."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from .checkpoints import MANIFEST, is_exported, load, load_reference
from .errors import DO_NOT_ATTACH, CommandError, attribute_errors_to
from .options import (
    DATA,
    GUARANTEE,
    JOINT,
    OUTPUT,
    RUNNING,
    SIDENETS,
    AnyDirectory,
    ConfidenceLevel,
    DataOptions,
    Dtype,
    Overwrite,
    ReferenceModel,
    Rows,
    SameBatchSize,
    SameMaxLength,
    Targets,
    Test,
    TrustRemoteCode,
    between_0_and_1,
    list_option,
    option,
    whole_number,
)
from .outcome import Outcome, refuse_source
from .texts import attach_text, recalibrate_text


if TYPE_CHECKING:
    from ..training.heads import HeadTraining

# Copies of the library's own lists, which would import torch.
Tune = Literal["heads", "joint"]
Reference = Literal["given", "tuned"]
# Fields of the config that the output names.
CHOSEN = ("exit_layers", "pooling", "thresholds", "temperatures", "chain")
VALIDATION = "Rows that neither trained nor selected the MainNet:"


def attach(
    mainnet: Annotated[
        str,
        Argument(
            metavar="MAINNET",
            help="Fine-tuned classifier: folder or Hub id; or, with --weights, torchvision:resnet18 or timm:resnet50.",
        ),
    ],
    data: Annotated[
        DataOptions,
        Rows(
            without=(),
            train="Training rows:",
            validation=VALIDATION,
            test="Test rows, for reporting only:",
        ),
    ],
    *,
    weights: Annotated[
        str | None,
        option(
            "--weights",
            RUNNING,
            "For a MAINNET such as torchvision:resnet18 or timm:resnet50: its fine-tuned weights, of safetensors or "
            "torch.save.",
            metavar="FILE",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            "--max-length",
            DATA,
            "Truncate texts to this many tokens. By default the tokenizer's limit, at most 512.",
            min=1,
        ),
    ] = None,
    target: Targets = ["accuracy_drop<=0.01"],  # noqa: B006 (typer reads it, nobody writes it)
    confidence_level: ConfidenceLevel = 0.95,
    test_method: Test = "paired",
    certification_fraction: Annotated[
        float,
        option(
            "--certification-fraction",
            GUARANTEE,
            "Fraction of the validation rows reserved for certification.",
            callback=between_0_and_1,
        ),
    ] = 0.75,
    blocks: Annotated[
        str | None,
        option(
            "--blocks",
            SIDENETS,
            "The MainNet's list of blocks, or its end (encoder.layer), instead of the one that is found.",
            metavar="NAME",
        ),
    ] = None,
    exit_layers: Annotated[
        list[int] | None,
        list_option(
            "--exit-layers",
            SIDENETS,
            "Candidate exits: number of blocks before a SideNet; 0 reads the input. By default all.",
            "N",
            parser=whole_number,
        ),
    ] = None,
    poolings: Annotated[
        list[str] | None,
        list_option(
            "--poolings",
            SIDENETS,
            "Candidate poolings: mean, cls, gap, flatten; at exit 0 ngrams, embeddings, ngrams+embeddings. By default "
            "all but flatten.",
            "NAME",
        ),
    ] = None,
    max_exits: Annotated[int, option("--max-exits", SIDENETS, "Maximum number of SideNets.", min=1)] = 4,
    chain: Annotated[
        bool,
        option(
            "--chain/--no-chain",
            SIDENETS,
            "A SideNet adds the logits of those before it to its own where that helps, or never.",
        ),
    ] = True,
    ensemble: Annotated[
        bool,
        option(
            "--ensemble",
            SIDENETS,
            "The MainNet adds the logits of the SideNets to its own, which changes its answers.",
        ),
    ] = False,
    hidden_size: Annotated[int, option("--hidden-size", SIDENETS, "Width of a SideNet's hidden layer.", min=1)] = 32,
    distillation_weight: Annotated[
        float | None,
        option(
            "--distillation-weight",
            SIDENETS,
            "w in the loss of a SideNet, (1 − w)·CE + w·T²·KL to the MainNet. "
            "[dim]\\[default: 0.5 for heads, 0.7 for joint][/dim]",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    tune: Annotated[
        Tune,
        option(
            "--tune",
            JOINT,
            "heads: the MainNet stays frozen. joint: MainNet and SideNets are then fine-tuned together.",
        ),
    ] = "heads",
    joint_epochs: Annotated[
        float | None,
        option("--joint-epochs", JOINT, "Number of epochs. [dim]\\[default: 4][/dim]", min=0.0),
    ] = None,
    joint_learning_rate: Annotated[
        float | None,
        option("--joint-learning-rate", JOINT, "Learning rate of the MainNet. [dim]\\[default: 5e-5][/dim]", min=0.0),
    ] = None,
    joint_batch_size: Annotated[
        int | None, option("--joint-batch-size", JOINT, "Rows per step. [dim]\\[default: 32][/dim]", min=1)
    ] = None,
    reference: Annotated[
        Reference,
        option("--reference", JOINT, "Classifier that risks are measured against: the given or the tuned one."),
    ] = "given",
    batch_size: Annotated[
        int, option("--batch-size", RUNNING, "Rows per call, also when measuring time.", min=1)
    ] = 32,
    seed: Annotated[
        int, option("--seed", RUNNING, "Seed for splitting the validation rows and for training.", min=0)
    ] = 0,
    cache_dir: Annotated[
        str | None,
        option("--cache-dir", RUNNING, "Cache for features. By default hf_sidenet in $HF_HOME.", metavar="DIRECTORY"),
    ] = None,
    revision: Annotated[
        str | None, option("--revision", RUNNING, "Branch, tag or commit of MAINNET on the Hub.", metavar="NAME")
    ] = None,
    dtype: Annotated[Dtype | None, option("--dtype", RUNNING, "Precision of the model. By default as stored.")] = None,
    output_dir: Annotated[
        str, option("--output-dir", OUTPUT, "Folder for the checkpoint, written atomically.", metavar="DIRECTORY")
    ],
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Attach SideNets to a fine-tuned classifier, train them, and choose θ with a guarantee.

    The MainNet's weights do not change unless --tune joint is given. If attaching does not pay off, the verdict is
    "do not attach": the numbers are printed, no checkpoint is written, and the exit code is 3.
    """
    joint = {"num_epochs": joint_epochs, "learning_rate": joint_learning_rate, "batch_size": joint_batch_size}
    joint = {name: value for name, value in joint.items() if value is not None}
    _check_joint(joint, reference, tune)
    refuse_source(output_dir, MAINNET=mainnet, **data.sources)
    # Imported late: they take seconds.
    import torch
    from transformers import AutoConfig

    from ..attaching.attach import attach
    from ..attaching.weights import is_named
    from ..calibration import parse_targets
    from ..hub.push import CHECKPOINT
    from ..io.folders import check_free
    from ..training.heads import HeadTraining
    from ..training.joint import JointTraining

    # Report errors before reading rows.
    parse_targets(target)
    check_free(output_dir, CHECKPOINT, overwrite=overwrite)
    # Not None, with which transformers would ask on the terminal.
    hub_kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        hub_kwargs["revision"] = revision
    if is_named(mainnet):
        hub_kwargs["weights"] = weights
    else:
        with attribute_errors_to("MAINNET"):
            AutoConfig.from_pretrained(mainnet, **hub_kwargs)
    if dtype is not None:
        hub_kwargs["dtype"] = getattr(torch, dtype)
    splits, columns = data.load(("train", "validation"), ("test",))
    shared: dict[str, Any] = {"seed": seed}
    if distillation_weight is not None:
        shared["distillation_weight"] = distillation_weight
    with (
        _enough_rows(data.option_of("validation"), certification_fraction),
        data.attribute_errors(),
        attribute_errors_to("MAINNET", argument="model_name_or_path"),
    ):
        result = attach(
            mainnet,
            splits["train"],
            splits["validation"],
            splits.get("test"),
            target=target,
            confidence_level=confidence_level,
            output_dir=output_dir,
            overwrite=overwrite,
            columns=columns,
            **data.about_labels,
            trust_rows=data.trust_rows,
            max_length=max_length,
            blocks=blocks,
            exit_layers=exit_layers or None,
            poolings=poolings or None,
            max_exits=max_exits,
            chain=chain,
            ensemble=ensemble,
            heads=HeadTraining(hidden_size=hidden_size, **shared),
            tune=tune,
            joint=JointTraining(**joint, **shared),
            reference=reference,
            test_method=test_method,
            certification_fraction=certification_fraction,
            batch_size=batch_size,
            seed=seed,
            cache_dir=cache_dir,
            **hub_kwargs,
        )
    config = None if result.model is None else result.model.config
    document = {
        **result.report,
        "output_dir": None if config is None else output_dir,
        **{name: config and getattr(config, name) for name in CHOSEN},
    }
    return Outcome(document, attach_text(document), 0 if config else DO_NOT_ATTACH)


def recalibrate(
    directory: AnyDirectory,
    checkpoint: Annotated[
        str | None,
        Option(
            "--checkpoint",
            metavar="CHECKPOINT",
            help="For an exported DIRECTORY: the checkpoint it was exported from, folder or Hub id. Risks are "
            "measured against its MainNet.",
            show_default=False,
        ),
    ] = None,
    *,
    data: Annotated[
        DataOptions,
        Rows(
            without=(),
            validation=VALIDATION,
            train="Training rows, to detect copies of them among the validation rows, and for --retrain:",
        ),
    ],
    max_length: SameMaxLength = None,
    target: Targets,
    confidence_level: ConfidenceLevel = 0.95,
    test_method: Test = "paired",
    reference: ReferenceModel = None,
    retrain: Annotated[
        bool,
        option(
            "--retrain",
            SIDENETS,
            "First train the SideNets anew, on the training rows as the model in its new precision, or the exported "
            "DIRECTORY, reads them; settings as when attached.",
        ),
    ] = False,
    dtype: Annotated[
        Dtype | None,
        option(
            "--dtype",
            RUNNING,
            "Precision in which the new checkpoint is calibrated and saved; risks are still measured against the "
            "MainNet as stored in DIRECTORY, or --reference. By default as stored.",
        ),
    ] = None,
    batch_size: SameBatchSize = None,
    output_dir: Annotated[
        str | None,
        option(
            "--output-dir",
            OUTPUT,
            "Folder for the new checkpoint. By default DIRECTORY itself is changed, which needs --overwrite.",
            metavar="DIRECTORY",
        ),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Choose new θ for another target, precision, set of rows or machine. Nothing is trained without --retrain.

    A guarantee holds for one precision: with --dtype, the checkpoint is cast before it is calibrated; a folder made by
    `hf-sidenet export` is calibrated as is, with --checkpoint. --retrain trains the SideNets for that precision;
    it does not undo rounding in the MainNet.

    The new checkpoint's report omits the results on test rows, which were for the old θ: evaluate it again. If no θ is
    found, nothing is written and the exit code is 3.
    """
    _check_places(directory, data, checkpoint, output_dir, overwrite)
    exported = _check_exported(directory, checkpoint, dtype)
    known = data.dataset_name is not None or data.files["train"] is not None
    if retrain and not known:
        raise CommandError(f"{data.option_of('train')}: must be given with --retrain.")
    from ..attaching.checkpoint import DEFAULT_FRACTION, recalibrate
    from ..calibration import parse_targets
    from ..export.exported import EXPORTED
    from ..export.onnx import OnnxStages
    from ..hub.push import CHECKPOINT, READ_NAMES, is_same_folder
    from ..hub.shared_files import refuse_links
    from ..io.folders import check_free
    from ..report import Report

    parse_targets(target)
    if exported:
        refuse_links(directory)
    where = output_dir or directory
    kind, names = (EXPORTED, EXPORTED.names) if exported else (CHECKPOINT, READ_NAMES)
    check_free(where, kind, overwrite=overwrite, read=names if is_same_folder(where, directory) else ())
    source = checkpoint or directory
    model, processor = load(source, "--checkpoint" if exported else "DIRECTORY", trust_remote_code=trust_remote_code)
    report = Report.load(source)
    stages = OnnxStages.load(directory) if exported else None
    if not exported:
        with attribute_errors_to(f"DIRECTORY: the report of {directory!r}", argument="report"):
            report.check_version()
    compared = load_reference(model, reference)
    splits, columns = data.load(("validation",), ("train",) if known else ())
    running = {"max_length": report.max_length(max_length), "batch_size": report.batch_size(batch_size)}
    fraction = (model.config.calibration or {}).get("certification_fraction", DEFAULT_FRACTION)
    with (
        _enough_rows(data.option_of("validation"), fraction),
        data.attribute_errors(),
        attribute_errors_to("--checkpoint: must be what DIRECTORY was exported from", argument="stages"),
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
            retrain=_heads(report, model.config.sidenet_hidden_size) if retrain else None,
            columns=columns,
            **data.about_labels,
            trust_rows=data.trust_rows,
            **running,
        )
    attached = found.found.evidence is not None
    if attached:
        found.save(where, report=None if exported else report, source=directory, overwrite=overwrite)
    # An exported folder has no report of its own.
    settings = {} if exported else report["settings"]
    document = {
        **found.found.to_dict(),
        "settings": {**settings, **running, **found.found.settings()},
        "data": {"validation": found.found.validation.about()},
        "precision": found.precision,
        "sidenet_precision": found.sidenet_precision,
        "retrained": retrain,
        "checkpoint": directory,
        "output_dir": where if attached else None,
        **{name: getattr(found.config, name) for name in CHOSEN},
    }
    return Outcome(document, recalibrate_text(document), 0 if attached else DO_NOT_ATTACH)


def _heads(report: Mapping[str, Any], hidden_size: int) -> "HeadTraining":
    """Return the settings with which the SideNets were trained, or the defaults without a report."""
    from ..training.heads import HeadTraining

    settings = report.get("settings", {}).get("heads", {"hidden_size": hidden_size})
    try:
        return HeadTraining(**settings)
    except (TypeError, ValueError) as error:
        raise CommandError(f"--retrain: must find the settings of the SideNets in the report ({error}).") from error


@contextmanager
def _enough_rows(option: str, fraction: float) -> Iterator[None]:
    """Turn `TooFewRowsError` into a message with the number of validation rows needed."""
    from ..calibration import TooFewRowsError

    try:
        yield
    except TooFewRowsError as error:
        raise CommandError(
            f"{option}: must have about {math.ceil(error.needed / fraction):,} rows or more. {error}"
        ) from error


def _check_joint(joint: dict[str, Any], reference: str, tune: str) -> None:
    given = [f"--joint-{name.removeprefix('num_').replace('_', '-')}" for name in joint]
    if reference != "given":
        given.append("--reference tuned")
    if given and tune != "joint":
        raise CommandError(f"{given[0]}: needs --tune joint, got --tune {tune}.")


def _check_places(
    directory: str, data: DataOptions, checkpoint: str | None, output_dir: str | None, overwrite: bool
) -> None:
    if output_dir is None and not overwrite:
        raise CommandError("--output-dir: must be given, or --overwrite to change DIRECTORY itself.")
    if output_dir is None and not Path(directory).is_dir():
        raise CommandError(f"--output-dir: must be given if DIRECTORY is not a folder, got {directory!r}.")
    refuse_source(output_dir or directory, **data.sources, **{"--checkpoint": checkpoint})
    if output_dir is not None and Path(output_dir).resolve() != Path(directory).resolve():
        refuse_source(output_dir, DIRECTORY=directory)


def _check_exported(directory: str, checkpoint: str | None, dtype: str | None) -> bool:
    """Return whether DIRECTORY was exported; reject options that do not apply to it."""
    exported = is_exported(directory)
    if exported and checkpoint is None:
        raise CommandError(f"--checkpoint: must be given for an exported DIRECTORY, got {directory!r} alone.")
    if exported and dtype is not None:
        raise CommandError(f"--dtype: must not be given for an exported DIRECTORY, got {dtype!r}.")
    if checkpoint is not None and not exported:
        raise CommandError(f"--checkpoint: needs an exported DIRECTORY, with {MANIFEST}, got {directory!r}.")
    return exported
