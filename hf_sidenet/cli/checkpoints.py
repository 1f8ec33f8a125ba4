# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet evaluate`, `recalibrate` and `info`: what is done with a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .attaching import enough_rows
from .data import DataOptions
from .errors import DO_NOT_ATTACH, CommandError, blaming
from .outcome import Outcome, json_text, refuse_source
from .reports import as_attached, check_version, read_report, updated_report
from .texts import evaluate_text, info_text, recalibrate_text


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models.modeling_base import SideNetPreTrainedModel

EVALUATION = "evaluation.json"


def evaluate_command(
    directory: str,
    data: DataOptions,
    *,
    reference: str | None,
    max_length: int | None,
    batch_size: int | None,
    output_dir: str | None,
    overwrite: bool,
) -> Outcome:
    """Evaluate a checkpoint at its own θ; see [`evaluate_checkpoint`]."""
    if output_dir is not None:
        refuse_source(output_dir, DIRECTORY=directory, **{"--test-file": data.files["test"]})
    from ..checkpoint import evaluate_checkpoint
    from ..evaluation import save_figures
    from ..measurement.files import check_free, writing_folder

    if output_dir is not None:
        check_free(output_dir, overwrite=overwrite)
    model, processor = _load(directory)
    report = read_report(directory)
    compared = _load_reference(model, reference)
    splits, columns = data.load(("test",))
    evaluation, records = evaluate_checkpoint(
        model,
        processor,
        splits["test"],
        reference=compared,
        columns=columns,
        **as_attached(report, max_length, batch_size),
    )
    document = {
        "checkpoint": directory,
        "reference": reference,
        "output_dir": output_dir,
        "evaluation": evaluation.to_dict(),
    }
    if output_dir is not None:
        title = f"{Path(directory).resolve().name}: {Path(data.files['test'] or data.dataset_name).name}"
        with writing_folder(output_dir, overwrite=overwrite) as folder:
            (folder / EVALUATION).write_text(json_text(document) + "\n", encoding="utf-8")
            save_figures(evaluation, records, folder, title)
    tuned = report.get("settings", {}).get("tune") == "joint"
    given = (model.config.calibration or {}).get("reference") == "given"
    return Outcome(document, evaluate_text(document, evaluation.text(), tuned and given and reference is None))


def recalibrate_command(
    directory: str,
    data: DataOptions,
    *,
    target: list[str],
    confidence_level: float,
    test_method: str,
    reference: str | None,
    max_length: int | None,
    batch_size: int | None,
    output_dir: str | None,
    overwrite: bool,
) -> Outcome:
    """New θ for a checkpoint, which is written again; see [`recalibrate`]."""
    if output_dir is None and not overwrite:
        raise CommandError("--output-dir: must be given, or --overwrite to change DIRECTORY itself.")
    if output_dir is None and not Path(directory).is_dir():
        raise CommandError(f"--output-dir: must be given where DIRECTORY is no folder, got {directory!r}.")
    files = {f"--{split}-file": path for split, path in data.files.items()}
    refuse_source(output_dir or directory, **files)
    if output_dir is not None and Path(output_dir).resolve() != Path(directory).resolve():
        refuse_source(output_dir, DIRECTORY=directory)
    from ..calibration import parse_targets
    from ..checkpoint import DEFAULT_FRACTION, recalibrate
    from ..hub import save_checkpoint
    from ..measurement.files import check_free

    parse_targets(target)
    check_free(output_dir or directory, overwrite=overwrite)
    model, processor = _load(directory)
    report = read_report(directory)
    check_version(report, directory)
    compared = _load_reference(model, reference)
    known = data.dataset_name is not None or data.files["train"] is not None
    splits, columns = data.load(("validation",), ("train",) if known else ())
    running = as_attached(report, max_length, batch_size)
    fraction = (model.config.calibration or {}).get("certification_fraction", DEFAULT_FRACTION)
    with (
        enough_rows(data.spelt("validation"), fraction),
        blaming(data.spelt("validation"), when="`validation`"),
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
            columns=columns,
            **running,
        )
    attached = found.verdict == "attach"
    report = updated_report(report, found, len(splits["validation"]), compared is not None, running)
    where = output_dir or directory
    if attached:
        save_checkpoint(where, model, processor, report, evaluation=None, records=None, overwrite=overwrite)
    document = {
        **{name: report[name] for name in ("verdict", "reason", "settings", "costs", "path", "calibration")},
        "checkpoint": directory,
        "output_dir": where if attached else None,
        **{name: getattr(model.config, name) for name in ("exit_layers", "pooling", "thresholds", "temperatures")},
    }
    return Outcome(document, recalibrate_text(document), 0 if attached else DO_NOT_ATTACH)


def info_command(directory: str) -> Outcome:
    """What is in a checkpoint."""
    from .. import models
    from ..models.configuration_sidenet import SideNetConfig

    with blaming("DIRECTORY"):
        config = SideNetConfig.from_pretrained(directory)
        model = getattr(models, config.architectures[0]).from_pretrained(directory)
    report = read_report(directory)
    points = model.exit_points()
    mainnet = model.mainnet
    document = {
        "checkpoint": directory,
        "class": type(model).__name__,
        "mainnet": {
            "name": report.get("mainnet", {}).get("name"),
            "class": type(mainnet).__name__,
            "num_blocks": len(points) + 1,
            "num_params": sum(param.numel() for param in mainnet.parameters()),
            "classes": [config.id2label[index] for index in range(config.num_labels)],
            "dtype": str(model.dtype).removeprefix("torch."),
            "temperature": config.temperatures[-1],
        },
        "exits": [
            {
                "name": f"SideNet {index}",
                "exit_layer": layer,
                "module": points[layer - 1].module,
                "pooling": config.pooling[index],
                "num_params": sum(param.numel() for param in model.sidenets[index].parameters()),
                "mainnet_params": points[layer - 1].params,
                "mainnet_flops": points[layer - 1].flops,
                "threshold": config.thresholds[index],
                "temperature": config.temperatures[index],
            }
            for index, layer in enumerate(config.exit_layers)
        ],
        "calibration": config.calibration,
        "has_evaluation": report.get("evaluation") is not None,
    }
    return Outcome(document, info_text(document))


def _load(directory: str) -> "tuple[SideNetPreTrainedModel, Any]":
    from ..checkpoint import load_checkpoint

    with blaming("DIRECTORY", when="`model_name_or_path`"), blaming("DIRECTORY"):
        return load_checkpoint(directory)


def _load_reference(model: "SideNetPreTrainedModel", reference: str | None) -> "PreTrainedModel | None":
    """The classifier to compare with, whose classes are those of the checkpoint."""
    if reference is None:
        return None
    with blaming("--reference"):
        compared = model.mainnet_auto_class.from_pretrained(reference, use_safetensors=True, dtype=model.dtype)
    if compared.config.id2label != model.config.id2label:
        raise CommandError(
            f"--reference: must have the checkpoint's classes, {list(model.config.id2label.values())}, got "
            f"{list(compared.config.id2label.values())}."
        )
    return compared.to(model.device).eval()
