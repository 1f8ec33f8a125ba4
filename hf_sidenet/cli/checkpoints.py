# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet evaluate`, `benchmark` and `info`: measure and describe a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from ..io.json import json_text, read_object
from .errors import CommandError, attribute_errors_to
from .options import (
    COMPARED,
    OUTPUT,
    RUNNING,
    AnyDirectory,
    DataOptions,
    Directory,
    Overwrite,
    ReferenceModel,
    Rows,
    SameBatchSize,
    SameMaxLength,
    TrustRemoteCode,
    list_option,
    number,
    option,
    whole_number,
)
from .outcome import Outcome, refuse_source
from .texts import evaluate_text, exported_text, info_text


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.formats import Processor
    from ..data.rows import Rows as PreparedRows
    from ..models.modeling_base import SideNetPreTrainedModel

# Copy of the library's own constant, which would import torch.
MANIFEST = "manifest.json"
# Engines on the command line → names in the library, which tables show.
ENGINES = {"eager": "eager", "compiled": "compiled", "onnx": "ONNX Runtime"}
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
BATCH_SIZES = [1, 8, 32, 128]
TEST = "Test rows, for reporting only:"


def evaluate(
    directory: Directory,
    data: Annotated[DataOptions, Rows(test=TEST)],
    *,
    max_length: SameMaxLength = None,
    reference: ReferenceModel = None,
    batch_size: SameBatchSize = None,
    output_dir: Annotated[
        str | None,
        option("--output-dir", OUTPUT, "Folder for evaluation.json and four figures.", metavar="DIRECTORY"),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Measure accuracy, calibration and costs of a checkpoint at its own θ on test rows, with intervals."""
    refuse_source(output_dir, DIRECTORY=directory, **data.sources)
    from ..attaching.checkpoint import evaluate_checkpoint
    from ..evaluation.exit_plots import EVALUATION, save_figures
    from ..inference.certificate import length_of, why_not_certified
    from ..io.folders import check_free, writing_folder
    from ..report import Report

    if output_dir is not None:
        check_free(output_dir, EVALUATION, overwrite=overwrite)
    model, processor = load(directory, trust_remote_code=trust_remote_code)
    report = Report.load(directory)
    compared = load_reference(model, reference)
    splits, columns = data.load(("test",))
    running = {"max_length": report.max_length(max_length), "batch_size": report.batch_size(batch_size)}
    with data.attribute_errors():
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
        title = f"{Path(directory).resolve().name}: {Path(data.name).name}"
        with writing_folder(output_dir, EVALUATION, overwrite=overwrite) as folder:
            (folder / EVALUATION.document).write_text(json_text(document) + "\n", encoding="utf-8")
            save_figures(evaluation, records, folder, title)
    missing = None if reference is not None else _missing_reference(model.config.calibration or {}, report)
    return Outcome(document, evaluate_text(document, evaluation.text(), missing))


def benchmark(
    directory: Directory,
    data: Annotated[DataOptions, Rows(test=TEST)],
    *,
    max_length: SameMaxLength = None,
    precision: Annotated[
        list[str],
        list_option("--precision", COMPARED, "Any of float32, bfloat16, float16; int8 in ONNX Runtime.", "NAME"),
    ] = ["float32", "bfloat16"],  # noqa: B006 (typer reads it, nobody writes it)
    engines: Annotated[
        list[str],
        list_option("--engines", COMPARED, "Any of eager, compiled, onnx.", "NAME"),
    ] = ["eager"],  # noqa: B006
    also: Annotated[
        list[str] | None,
        list_option(
            "--also",
            COMPARED,
            "Checkpoint of `hf-sidenet recalibrate --dtype`, or folder of `hf-sidenet export`, that replaces "
            "DIRECTORY in its precision.",
            "DIRECTORY",
        ),
    ] = None,
    thresholds: Annotated[
        list[float] | None,
        list_option(
            "--thresholds", COMPARED, "θ of each SideNet. By default the checkpoint's.", "NUMBER", parser=number
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float,
        option(
            "--max-accuracy-drop",
            COMPARED,
            "Methods whose accuracy is lower than the first plain MainNet's by more than this fraction do not count "
            "in the verdict.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.01,
    batch_size: Annotated[
        list[int], list_option("--batch-size", RUNNING, "Rows per batch.", "N", parser=whole_number)
    ] = BATCH_SIZES,
    rows: Annotated[
        int,
        option("--rows", RUNNING, "Rows, chosen at random; at most 128 batches of them at each batch size.", min=1),
    ] = 512,
    repeats: Annotated[
        int, option("--repeats", RUNNING, "Timed rounds over the rows, after a warm-up round.", min=1)
    ] = 3,
    memory: Annotated[
        bool, option("--memory", RUNNING, "Also measure peak memory, at one batch size: about 10 s per method.")
    ] = False,
    threads: Annotated[int | None, option("--threads", RUNNING, "CPU threads. By default PyTorch's.", min=1)] = None,
    device: Annotated[
        str | None, option("--device", RUNNING, "cpu, cuda, ... By default a GPU if there is one.", metavar="NAME")
    ] = None,
    seed: Annotated[
        int, option("--seed", RUNNING, "Seed for choosing rows and for the order in which methods run.", min=0)
    ] = 0,
    output_dir: Annotated[
        str | None,
        option("--output-dir", OUTPUT, "Folder for benchmark.json, .md, .png and a CSV file.", metavar="DIRECTORY"),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Outcome:
    """Find out whether early exits pay off on this machine: time every method on the same real rows, interleaved.

    Plain MainNet and SideNets: throughput, latency, accuracy, fraction of the ideal speed, and the baseline that each
    method has to beat. The verdict is "worth it here" or "do not use here".
    """
    precisions = _chosen("--precision", precision, {name: name for name in PRECISIONS})
    chosen_engines = _chosen("--engines", engines, ENGINES)
    also = also or []
    # Older versions of typer accept nan within the range of an option.
    if not 0 <= max_accuracy_drop <= 1:
        raise CommandError(f"--max-accuracy-drop: must be in [0, 1], got {max_accuracy_drop}.")
    others = {f"--also {path}": path for path in also}
    refuse_source(output_dir, DIRECTORY=directory, **data.sources, **others)
    # Imported late: they take seconds.
    import torch

    from ..benchmark import run_benchmark
    from ..benchmark.catalog import Catalog, Settings
    from ..benchmark.result import BENCHMARK
    from ..benchmark.rows import read_rows
    from ..calibration.label_checks import Answered, check_class_order
    from ..inference.stages import Stages
    from ..io.folders import check_free
    from ..report import Report

    if output_dir is not None:
        check_free(output_dir, BENCHMARK, overwrite=overwrite)
    if threads is not None:
        torch.set_num_threads(threads)
    device = _device(device)
    with attribute_errors_to("DIRECTORY", argument="model_name_or_path"):
        settings = Settings(
            directory=directory,
            precisions=precisions,
            engines=chosen_engines,
            also=tuple(also),
            thresholds=thresholds or None,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        catalog = Catalog(settings)
        model = catalog.base.model
    max_length = Report.load(directory).max_length(max_length)
    with data.attribute_errors():
        prepared = _prepared(directory, data, model, max_length)
    with attribute_errors_to(data.option_of("test")):
        inputs, labels = read_rows(Stages(model), prepared, rows, seed)
    answers, _ = catalog.reference.mainnet(inputs)
    check_class_order(
        [Answered("test", answers, torch.tensor(labels))], prepared.classes, trust_labels=data.trust_labels
    )
    about: dict[str, Any] = {
        "model": Path(directory).resolve().name if Path(directory).exists() else directory,
        "data": Path(data.name).name,
        "rows": f"{len(inputs):,} of {len(prepared):,}, in random order (seed {seed})",
        "fingerprint of the data": prepared.fingerprint,
    }
    if model.modality.has_tokens:
        about["longest text, tokens"] = max(row.length for row in inputs)
    if max_length is not None:
        about["texts cut at, tokens"] = max_length
    with TemporaryDirectory() as scratch:
        result = run_benchmark(
            catalog.with_onnx(scratch, inputs).methods(),
            inputs,
            labels,
            batch_sizes=list(batch_size),
            repeats=repeats,
            max_accuracy_drop=max_accuracy_drop,
            memory=memory,
            device=device,
            seed=seed,
            about=about,
        )
    document: dict[str, Any] = {**result.to_dict(), "checkpoint": directory, "output_dir": output_dir}
    text = result.text()
    if output_dir is not None:
        result.save(output_dir, overwrite=overwrite)
        text = f"{text}\n\nWritten to {output_dir}"
    return Outcome(document, text)


def info(directory: AnyDirectory, *, trust_remote_code: TrustRemoteCode = False) -> Outcome:
    """Show what is in a checkpoint: MainNet, exits, θ, temperatures, and the evidence behind θ."""
    if is_exported(directory):
        return _exported_info(directory)
    from ..calibration import check_evidence
    from ..data import processor_in
    from ..inference.certificate import why_not_certified
    from ..inference.classes import load_model
    from ..models.configuration_sidenet import SideNetConfig
    from ..models.tasks import label_names
    from ..report import Report

    with attribute_errors_to("DIRECTORY"):
        config = SideNetConfig.from_pretrained(directory)
        if config.calibration is not None:
            check_evidence(config.calibration)
        model = load_model(directory, config, trust_remote_code=trust_remote_code)
    report = Report.load(directory)
    points = {point.exit_layer: point for point in model.exit_points()}
    mainnet = model.mainnet
    document = {
        "checkpoint": directory,
        "class": type(model).__name__,
        "mainnet": {
            "name": report.get("mainnet", {}).get("name"),
            "class": type(mainnet).__name__,
            "num_blocks": max(points) + 1,
            "num_params": sum(param.numel() for param in mainnet.parameters()),
            "classes": label_names(config),
            "dtype": str(model.dtype).removeprefix("torch."),
            "temperature": config.temperatures[-1],
        },
        "exits": [
            {
                "name": f"SideNet {index}",
                "exit_layer": layer,
                "module": points[layer].module,
                "pooling": config.pooling[index],
                "num_params": sum(param.numel() for param in model.sidenets[index].parameters()),
                "mainnet_params": points[layer].params,
                "mainnet_flops": points[layer].flops,
                "threshold": config.thresholds[index],
                "temperature": config.temperatures[index],
            }
            for index, layer in enumerate(config.exit_layers)
        ],
        "chain": config.chain,
        "calibration": config.calibration,
        "not_certified": why_not_certified(model, processor_in(directory, model.modality)),
        "has_evaluation": report.get("evaluation") is not None,
    }
    return Outcome(document, info_text(document))


def load(
    directory: str, called: str = "DIRECTORY", *, trust_remote_code: bool
) -> "tuple[SideNetPreTrainedModel, Processor]":
    """Load a checkpoint in the precision in which it is stored.

    Args:
        directory (`str`): folder or Hub id.
        called (`str`, *optional*, defaults to `"DIRECTORY"`): argument to name in errors.
        trust_remote_code (`bool`): whether the MainNet's own code may run.

    Raises:
        CommandError: there is no such checkpoint.
    """
    from ..attaching.checkpoint import load_checkpoint
    from ..calibration import check_evidence

    with attribute_errors_to(called, argument="model_name_or_path"), attribute_errors_to(called):
        model, processor = load_checkpoint(directory, check=False, trust_remote_code=trust_remote_code)
        if model.config.calibration is not None:
            check_evidence(model.config.calibration)
    return model, processor


def load_reference(model: "SideNetPreTrainedModel", reference: str | None) -> "PreTrainedModel | None":
    """Load the classifier to compare with, in the precision in which it is stored. For a checkpoint with SideNets this
    is its MainNet.

    Raises:
        CommandError: its classes differ from the checkpoint's.
    """
    from ..models.tasks import label_names

    if reference is None:
        return None
    with attribute_errors_to("--reference"):
        compared: Any = model.mainnet_auto_class.from_pretrained(reference, use_safetensors=True)
    if compared.config.model_type == model.config.model_type:
        compared = compared.mainnet
    if compared.config.id2label != model.config.id2label:
        raise CommandError(
            f"--reference: must have the checkpoint's classes, {label_names(model.config)}, got "
            f"{list(compared.config.id2label.values())}."
        )
    return compared.to(model.device).eval()


def is_exported(directory: str) -> bool:
    """Return whether a folder was written by `hf-sidenet export`, without importing torch."""
    return (Path(directory) / MANIFEST).is_file()


def _exported_info(directory: str) -> Outcome:
    """Describe an exported folder."""
    from ..calibration import check_evidence
    from ..data import processor_in
    from ..export.exported import ExportedAbout, Manifest, read_config
    from ..export.onnx import OnnxStages
    from ..export.torch_export import TorchStages
    from ..inference.certificate import why_not_certified
    from ..models.modalities import MODALITIES
    from ..models.tasks import label_names

    runtimes = {each.format: each.runtime for each in (OnnxStages, TorchStages)}
    # The stages are not loaded: that needs the runtime, and loading a torch.export program can run code.
    try:
        found = read_object(Path(directory) / MANIFEST).get("format")
    # `Manifest.read` below reports the error.
    except ValueError:
        found = None
    manifest = Manifest.read(directory, TorchStages.format if found == TorchStages.format else OnnxStages.format)
    config = read_config(directory)
    if config.calibration is not None:
        check_evidence(config.calibration)
    places = zip(config.exit_layers, config.pooling, config.thresholds, config.temperatures, strict=False)
    document = {
        "exported": directory,
        "precision": f"{manifest.precision} ({runtimes[manifest.format]})",
        "mainnet": {
            "num_blocks": len(config.block_shapes or ()) + 1,
            "classes": label_names(config),
            "temperature": config.temperatures[-1],
        },
        "exits": [
            {
                "name": f"SideNet {i}",
                "exit_layer": k,
                "pooling": pooling,
                "threshold": theta,
                "temperature": temperature,
            }
            for i, (k, pooling, theta, temperature) in enumerate(places)
        ],
        "chain": config.chain,
        "calibration": config.calibration,
    }
    document["not_certified"] = why_not_certified(
        ExportedAbout(config, manifest), processor_in(directory, MODALITIES[manifest.modality])
    )
    return Outcome(document, exported_text(document))


def _missing_reference(evidence: Mapping[str, Any], report: Mapping[str, Any]) -> str | None:
    """Return the classifier that θ was chosen against, if it is not the MainNet inside."""
    if evidence.get("reference") == "stored":
        return f"the {evidence['reference_precision']} MainNet that this one was made from"
    if evidence.get("reference") == "other":
        return "another classifier"
    tuned = report.get("settings", {}).get("tune") == "joint"
    return "the MainNet from before joint training" if tuned and evidence.get("reference") == "given" else None


def _prepared(
    directory: str, data: DataOptions, model: "SideNetPreTrainedModel", max_length: int | None
) -> "PreparedRows":
    from ..data import load_processor
    from ..data.rows import prepare_rows

    splits, columns = data.load(("test",))
    processor = load_processor(directory, model.modality)
    prepared = prepare_rows(
        splits,
        model.config,
        processor,
        modality=model.modality,
        columns=columns,
        max_length=max_length,
        labels=data.labels or None,
        skip_bad_rows=data.skip_bad_rows,
    )
    return prepared["test"]


def _chosen(option: str, names: list[str], known: dict[str, str]) -> list[str]:
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise CommandError(f"{option}: must be distinct names among {', '.join(known)}, got {','.join(names)!r}.")
    return [known[name] for name in names]


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device: must be a device that PyTorch can use here, got {name!r} ({error}).") from error
    return name
