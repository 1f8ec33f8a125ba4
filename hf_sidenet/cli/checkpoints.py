# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet evaluate` and `info`: what a checkpoint says."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import DataOptions
from .errors import CommandError, blaming
from .exported import exported_info, is_exported
from .outcome import Outcome, json_text, refuse_source
from .reports import as_attached, read_report
from .texts import evaluate_text, info_text


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models.modeling_base import SideNetPreTrainedModel


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
    from ..attaching.checkpoint import evaluate_checkpoint
    from ..evaluation.exit_plots import EVALUATION, save_figures
    from ..inference.certificate import length_of, why_not_certified
    from ..io.folders import check_free, writing_folder

    if output_dir is not None:
        check_free(output_dir, EVALUATION, overwrite=overwrite)
    model, processor = load(directory)
    report = read_report(directory)
    compared = load_reference(model, reference)
    splits, columns = data.load(("test",))
    running = as_attached(report, max_length, batch_size)
    with data.blaming():
        evaluation, records = evaluate_checkpoint(
            model,
            processor,
            splits["test"],
            reference=compared,
            columns=columns,
            **data.about_labels,
            **running,
        )
    document = {
        "checkpoint": directory,
        "reference": reference,
        "not_certified": why_not_certified(model, processor, length_of(model, processor, running["max_length"])),
        "output_dir": output_dir,
        "evaluation": evaluation.to_dict(),
    }
    if output_dir is not None:
        title = f"{Path(directory).resolve().name}: {Path(data.files['test'] or data.dataset_name).name}"
        with writing_folder(output_dir, EVALUATION, overwrite=overwrite) as folder:
            (folder / EVALUATION.document).write_text(json_text(document) + "\n", encoding="utf-8")
            save_figures(evaluation, records, folder, title)
    missing = None if reference is not None else _missing_reference(model.config.calibration or {}, report)
    return Outcome(document, evaluate_text(document, evaluation.text(), missing))


def info_command(directory: str) -> Outcome:
    """What is in a checkpoint, or in an exported folder."""
    if is_exported(directory):
        return exported_info(directory)
    from ..calibration import check_evidence
    from ..data import processor_in
    from ..inference.certificate import why_not_certified
    from ..inference.classes import load_model
    from ..models.configuration_sidenet import SideNetConfig

    with blaming("DIRECTORY"):
        config = SideNetConfig.from_pretrained(directory)
        if config.calibration is not None:
            check_evidence(config.calibration)
        model = load_model(directory, config)
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
        "not_certified": why_not_certified(model, processor_in(directory, model.modality)),
        "has_evaluation": report.get("evaluation") is not None,
    }
    return Outcome(document, info_text(document))


def _missing_reference(evidence: dict[str, Any], report: dict[str, Any]) -> str | None:
    """The classifier that θ was chosen against, where it is not the MainNet inside."""
    if evidence.get("reference") == "stored":
        return f"the {evidence['reference_precision']} MainNet that this one was made from"
    if evidence.get("reference") == "other":
        return "another classifier"
    tuned = report.get("settings", {}).get("tune") == "joint"
    return "the MainNet from before joint training" if tuned and evidence.get("reference") == "given" else None


def load(directory: str, called: str = "DIRECTORY") -> "tuple[SideNetPreTrainedModel, Any]":
    """A checkpoint in the precision in which it is stored.

    Args:
        directory (`str`): folder or Hub id.
        called (`str`): the argument that named it.

    Raises:
        CommandError: there is none.
    """
    from ..attaching.checkpoint import load_checkpoint
    from ..calibration import check_evidence

    with blaming(called, when="`model_name_or_path`"), blaming(called):
        model, processor = load_checkpoint(directory, check=False)
        if model.config.calibration is not None:
            check_evidence(model.config.calibration)
    return model, processor


def load_reference(model: "SideNetPreTrainedModel", reference: str | None) -> "PreTrainedModel | None":
    """The classifier to compare with, in the precision in which it is stored; of a checkpoint with SideNets, its
    MainNet.

    Raises:
        CommandError: its classes are not those of the checkpoint.
    """
    if reference is None:
        return None
    with blaming("--reference"):
        compared = model.mainnet_auto_class.from_pretrained(reference, use_safetensors=True)
    if compared.config.model_type == model.config.model_type:
        compared = compared.mainnet
    if compared.config.id2label != model.config.id2label:
        raise CommandError(
            f"--reference: must have the checkpoint's classes, {list(model.config.id2label.values())}, got "
            f"{list(compared.config.id2label.values())}."
        )
    return compared.to(model.device).eval()
