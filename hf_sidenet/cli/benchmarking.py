# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet benchmark`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .data import DataOptions, listed
from .errors import CommandError, blaming
from .outcome import Outcome, refuse_source
from .reports import as_attached, read_report


if TYPE_CHECKING:
    from ..data.rows import Rows
    from ..models.modeling_base import SideNetPreTrainedModel

# How engines are typed; the library's own names are for tables.
ENGINES = {"eager": "eager", "compiled": "compiled", "onnx": "ONNX Runtime"}
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a user said to `benchmark`; the fields are options by name."""

    directory: str
    data: DataOptions
    max_length: int | None
    batch_size: Sequence[int]
    rows: int
    repeats: int
    precision: str
    engines: str
    also: Sequence[str]
    thresholds: str | None
    max_accuracy_drop: float
    memory: bool
    threads: int | None
    device: str | None
    seed: int
    output_dir: str | None
    overwrite: bool


def benchmark_command(options: BenchmarkOptions) -> Outcome:
    """Time everything, and say what was found; see [`run_benchmark`]."""
    precisions = _chosen("--precision", options.precision, {name: name for name in PRECISIONS})
    engines = _chosen("--engines", options.engines, ENGINES)
    thresholds = listed("--thresholds", options.thresholds, float)
    # In older typer the range of the option lets nan pass.
    if not 0 <= options.max_accuracy_drop <= 1:
        raise CommandError(f"--max-accuracy-drop: must be in [0, 1], got {options.max_accuracy_drop}.")
    if options.output_dir is not None:
        sources = {"DIRECTORY": options.directory, "--test-file": options.data.files["test"]}
        refuse_source(options.output_dir, **sources, **{f"--also {path}": path for path in options.also})
    # Here, since they take seconds to import.
    import torch

    from ..benchmark import run_benchmark
    from ..benchmark.catalog import Catalog, Settings
    from ..benchmark.result import BENCHMARK
    from ..benchmark.rows import read_rows
    from ..calibration.label_checks import Answered, check_class_order
    from ..inference.stages import Stages
    from ..io.folders import check_free

    if options.output_dir is not None:
        check_free(options.output_dir, BENCHMARK, overwrite=options.overwrite)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    with blaming("DIRECTORY", when="`model_name_or_path`"):
        settings = Settings(
            directory=options.directory,
            precisions=precisions,
            engines=engines,
            also=tuple(options.also),
            thresholds=thresholds,
            device=device,
        )
        catalog = Catalog(settings)
        model = catalog.base.model
    with options.data.blaming():
        prepared, max_length = _prepared(options, model)
    with blaming(options.data.spelt("test")):
        rows, labels = read_rows(Stages(model), prepared, options.rows, options.seed)
    answers, _ = catalog.reference.mainnet(rows)
    check_class_order(
        [Answered("test", answers, torch.tensor(labels))], prepared.classes, trust_labels=options.data.trust_labels
    )
    about = {
        "model": Path(options.directory).resolve().name if Path(options.directory).exists() else options.directory,
        "data": Path(options.data.files["test"] or options.data.dataset_name).name,
        "rows": f"{len(rows):,} of {len(prepared):,}, in random order (seed {options.seed})",
        "fingerprint of the data": prepared.fingerprint,
    }
    if model.modality.has_tokens:
        about["longest text, tokens"] = max(row.length for row in rows)
    if max_length is not None:
        about["texts cut at, tokens"] = max_length
    with TemporaryDirectory() as scratch:
        result = run_benchmark(
            catalog.with_onnx(scratch, rows).methods(),
            rows,
            labels,
            batch_sizes=list(options.batch_size),
            repeats=options.repeats,
            max_accuracy_drop=options.max_accuracy_drop,
            memory=options.memory,
            device=device,
            seed=options.seed,
            about=about,
        )
    document: dict[str, Any] = {**result.to_dict(), "checkpoint": options.directory, "output_dir": options.output_dir}
    text = result.text()
    if options.output_dir is not None:
        result.save(options.output_dir, overwrite=options.overwrite)
        text = f"{text}\n\nWritten to {options.output_dir}"
    return Outcome(document, text)


def _prepared(options: BenchmarkOptions, model: "SideNetPreTrainedModel") -> "tuple[Rows, int | None]":
    from ..data import load_processor
    from ..data.rows import prepare_rows

    max_length = as_attached(read_report(options.directory), options.max_length, None)["max_length"]
    splits, columns = options.data.load(("test",))
    processor = load_processor(options.directory, model.modality)
    prepared = prepare_rows(
        splits,
        model.config,
        processor,
        modality=model.modality,
        columns=columns,
        max_length=max_length,
        labels=options.data.labels or None,
        skip_bad_rows=options.data.skip_bad_rows,
    )
    return prepared["test"], max_length


def _chosen(option: str, text: str, known: dict[str, str]) -> list[str]:
    names = listed(option, text)
    wrong = [name for name in names if name not in known]
    if wrong or len(set(names)) < len(names):
        raise CommandError(f"{option}: must be different ones of {', '.join(known)}, got {text!r}.")
    return [known[name] for name in names]


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device: must be a device that PyTorch has here, got {name!r} ({error}).") from error
    return name
