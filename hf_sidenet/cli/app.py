# SPDX-License-Identifier: Apache-2.0
"""The commands as they are typed. This file, `options.py` and `lists.py` are the only ones that import typer."""

from functools import partial
from typing import Annotated, Any

import typer

from . import options as o
from .data import DataOptions
from .lists import WithLists
from .outcome import show


EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong arguments or data, 3 do not attach."
app = typer.Typer(
    help="Early exits for Hugging Face classifiers: attach SideNets, know which θ is safe, evaluate, share.",
    epilog=EXIT_CODES,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command() -> Any:
    """The command with its sub-commands."""
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    cls=WithLists,
    help="Attach SideNets to a fine-tuned classifier, train them, and choose θ with a guarantee.\n\n"
    "The MainNet's weights are not changed unless --tune joint is given. Where attaching does not pay, the verdict is "
    '"do not attach": the numbers are printed, no checkpoint is written, and the exit code is 3.',
    epilog="Example: hf-sidenet attach my-org/bert-sst2 --train-file train.tsv --validation-file dev.tsv "
    '--test-file test.tsv --target "accuracy_drop<=0.01" --output-dir bert-sst2-sidenet',
)
def attach(
    mainnet: o.MainNet,
    train_file: o.TrainFile = None,
    validation_file: o.ValidationFile = None,
    test_file: o.TestFile = None,
    dataset_name: o.DatasetName = None,
    dataset_config: o.DatasetConfig = None,
    no_header: o.NoHeader = False,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    labels: o.Labels = None,
    trust_labels: o.TrustLabels = False,
    skip_bad_rows: o.SkipBadRows = False,
    trust_rows: o.TrustRows = False,
    max_length: o.MaxLength = None,
    target: o.Targets = ["accuracy_drop<=0.01"],  # noqa: B006 (typer reads it, nobody writes it)
    confidence_level: o.ConfidenceLevel = 0.95,
    test_method: o.Test = o.TestMethod.paired,
    certification_fraction: o.CertificationFraction = 0.75,
    exit_layers: o.ExitLayers = None,
    poolings: o.Poolings = None,
    max_exits: o.MaxExits = 3,
    hidden_size: o.HiddenSize = 32,
    distillation_weight: o.DistillationWeight = None,
    tune: o.TuneMode = o.Tune.heads,
    joint_epochs: o.JointEpochs = None,
    joint_learning_rate: o.JointLearningRate = None,
    joint_batch_size: o.JointBatchSize = None,
    reference: o.ReferenceMode = o.Reference.given,
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    cache_dir: o.CacheDir = None,
    revision: o.Revision = None,
    dtype: o.DtypeName = None,
    output_dir: o.OutputDir = ...,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> int:
    """See `hf-sidenet attach --help`."""
    from .attaching import AttachOptions, attach_command

    joint = {"num_epochs": joint_epochs, "learning_rate": joint_learning_rate, "batch_size": joint_batch_size}
    given = AttachOptions(
        mainnet=mainnet,
        data=DataOptions.given({"train": train_file, "validation": validation_file, "test": test_file}, locals()),
        target=target,
        confidence_level=confidence_level,
        test_method=test_method.value,
        certification_fraction=certification_fraction,
        max_length=max_length,
        exit_layers=exit_layers,
        poolings=poolings,
        max_exits=max_exits,
        hidden_size=hidden_size,
        distillation_weight=distillation_weight,
        tune=tune.value,
        joint={name: value for name, value in joint.items() if value is not None},
        reference=reference.value,
        batch_size=batch_size,
        seed=seed,
        cache_dir=cache_dir,
        revision=revision,
        dtype=None if dtype is None else dtype.value,
        output_dir=output_dir,
        overwrite=overwrite,
    )
    return show(partial(attach_command, given), as_json)


@app.command(
    cls=WithLists,
    epilog="Example: hf-sidenet evaluate bert-sst2-sidenet --test-file test.tsv --output-dir bert-sst2-figures",
)
def evaluate(
    directory: o.Directory,
    test_file: o.TestFile = None,
    dataset_name: o.DatasetName = None,
    dataset_config: o.DatasetConfig = None,
    no_header: o.NoHeader = False,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    labels: o.Labels = None,
    trust_labels: o.TrustLabels = False,
    skip_bad_rows: o.SkipBadRows = False,
    max_length: o.SameMaxLength = None,
    reference: o.ReferenceModel = None,
    batch_size: o.SameBatchSize = None,
    output_dir: o.FiguresDir = None,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> int:
    """Accuracy, calibration and costs of a checkpoint at its own θ, on test rows, with intervals."""
    from .checkpoints import evaluate_command

    data = DataOptions.given({"test": test_file}, locals())
    work = partial(
        evaluate_command,
        directory,
        data,
        reference=reference,
        max_length=max_length,
        batch_size=batch_size,
        output_dir=output_dir,
        overwrite=overwrite,
    )
    return show(work, as_json)


@app.command(
    cls=WithLists,
    help="New θ for another target or precision, on other rows or on another machine. Nothing is trained.\n\n"
    "A guarantee is for one precision: with --dtype the checkpoint is cast and calibrated as it will serve; a folder "
    "of `hf-sidenet export` is calibrated as it is, with --checkpoint.\n\n"
    "The new checkpoint's report loses the results on test rows, which were for the old θ: evaluate it again. Where "
    "no θ is found, nothing is written and the exit code is 3.",
    epilog="Example: hf-sidenet recalibrate bert-sst2-sidenet --dtype bfloat16 --validation-file dev.tsv "
    '--target "accuracy_drop<=0.01" --output-dir bert-sst2-sidenet-bf16',
)
def recalibrate(
    directory: o.AnyDirectory,
    checkpoint: o.Checkpoint = None,
    validation_file: o.ValidationFile = None,
    train_file: o.KnownFile = None,
    dataset_name: o.DatasetName = None,
    dataset_config: o.DatasetConfig = None,
    no_header: o.NoHeader = False,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    labels: o.Labels = None,
    trust_labels: o.TrustLabels = False,
    skip_bad_rows: o.SkipBadRows = False,
    trust_rows: o.TrustRows = False,
    max_length: o.SameMaxLength = None,
    target: o.Targets = ...,
    confidence_level: o.ConfidenceLevel = 0.95,
    test_method: o.Test = o.TestMethod.paired,
    reference: o.ReferenceModel = None,
    dtype: o.NewDtype = None,
    batch_size: o.SameBatchSize = None,
    output_dir: o.NewDir = None,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> int:
    """See `hf-sidenet recalibrate --help`."""
    from .recalibrating import recalibrate_command

    data = DataOptions.given({"train": train_file, "validation": validation_file}, locals())
    work = partial(
        recalibrate_command,
        directory,
        data,
        checkpoint=checkpoint,
        target=target,
        confidence_level=confidence_level,
        test_method=test_method.value,
        reference=reference,
        dtype=None if dtype is None else dtype.value,
        max_length=max_length,
        batch_size=batch_size,
        output_dir=output_dir,
        overwrite=overwrite,
    )
    return show(work, as_json)


@app.command(
    help="Write a checkpoint as one file per stage, for ONNX Runtime or torch.export, with θ beside it.\n\n"
    "Every stage is compared with the model's own. In int8 answers change, so that θ has no evidence behind it until "
    "`hf-sidenet recalibrate` has found one for the exported folder.",
    epilog="Example: hf-sidenet export bert-sst2-sidenet --format onnx --int8 --output-dir bert-sst2-int8",
)
def export(
    directory: o.Directory,
    calibration_file: o.CalibrationFile = None,
    dataset_name: o.DatasetName = None,
    dataset_config: o.DatasetConfig = None,
    no_header: o.NoHeader = False,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    skip_bad_rows: o.SkipBadRows = False,
    max_length: o.SameMaxLength = None,
    format: o.Format = o.ExportFormat.onnx,
    int8: o.Int8 = False,
    output_dir: o.ExportDir = ...,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> int:
    """See `hf-sidenet export --help`."""
    from .exporting import export_command

    data = DataOptions.given({"train": calibration_file}, locals())
    work = partial(
        export_command,
        directory,
        data,
        format=format.value,
        int8=int8,
        max_length=max_length,
        output_dir=output_dir,
        overwrite=overwrite,
    )
    return show(work, as_json)


@app.command(
    cls=WithLists,
    help="Is it worth it here? Every way to answer the same real rows, timed in turns, batch by batch.\n\n"
    "Plain MainNet, rivals and SideNets: throughput, latency, accuracy, share of the ideal, and what each row has to "
    'beat. The verdict is "worth it here" or "do not use here".',
    epilog="Example: hf-sidenet benchmark bert-sst2-sidenet --test-file test.tsv --output-dir bert-sst2-benchmark",
)
def benchmark(
    directory: o.Directory,
    test_file: o.TestFile = None,
    dataset_name: o.DatasetName = None,
    dataset_config: o.DatasetConfig = None,
    no_header: o.NoHeader = False,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    labels: o.Labels = None,
    trust_labels: o.TrustLabels = False,
    skip_bad_rows: o.SkipBadRows = False,
    max_length: o.SameMaxLength = None,
    precision: o.Precisions = "float32,bfloat16",
    engines: o.Engines = "eager",
    also: o.Also = None,
    thresholds: o.GivenThresholds = None,
    max_accuracy_drop: o.MaxAccuracyDrop = 0.01,
    batch_size: o.BatchSizes = [1, 8, 32, 128],  # noqa: B006 (typer reads it, nobody writes it)
    rows: o.NumRows = 512,
    repeats: o.Repeats = 3,
    memory: o.Memory = False,
    threads: o.Threads = None,
    device: o.Device = None,
    seed: o.RowSeed = 0,
    output_dir: o.BenchmarkDir = None,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> int:
    """See `hf-sidenet benchmark --help`."""
    from .benchmarking import BenchmarkOptions, benchmark_command

    data = DataOptions.given({"test": test_file}, locals())
    given = BenchmarkOptions(
        directory=directory,
        data=data,
        max_length=max_length,
        batch_size=batch_size,
        rows=rows,
        repeats=repeats,
        precision=precision,
        engines=engines,
        also=also or [],
        thresholds=thresholds,
        max_accuracy_drop=max_accuracy_drop,
        memory=memory,
        threads=threads,
        device=device,
        seed=seed,
        output_dir=output_dir,
        overwrite=overwrite,
    )
    return show(partial(benchmark_command, given), as_json)


@app.command(
    help="Put a checkpoint on the Hub: weights, config, code, tokenizer or image processor, card, report, figures.\n\n"
    "First it says what would not load elsewhere and what must not travel; where there is such a thing, nothing is "
    "uploaded and the exit code is 2. Nothing pickled is ever uploaded.",
    epilog="Example: hf-sidenet push bert-sst2-sidenet my-org/bert-sst2-sidenet --private",
)
def push(
    directory: o.SharedDirectory,
    repo: o.Repo = None,
    private: o.Private = False,
    token: o.Token = None,
    revision: o.Branch = None,
    message: o.Message = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> int:
    """See `hf-sidenet push --help`."""
    from .pushing import push_command

    work = partial(
        push_command,
        directory,
        repo,
        private=private,
        token=token,
        revision=revision,
        message=message,
        dry_run=dry_run,
    )
    return show(work, as_json)


@app.command(
    cls=WithLists,
    help="A page in the browser to play with a checkpoint: type a sentence or drop a picture, move θ, see who "
    "answers, how sure it is and what was saved; or answer a whole file.\n\n"
    "It listens on this machine only, unless --host says otherwise, and stops with Ctrl-C.",
    epilog='Example: hf-sidenet demo bert-sst2-sidenet --example "a gripping film"',
)
def demo(
    directory: o.Directory,
    example: o.Examples = None,
    pair: o.Pair = False,
    labels: o.FileLabels = None,
    title: o.Title = None,
    host: o.Host = "127.0.0.1",
    port: o.Port = None,
) -> int:
    """See `hf-sidenet demo --help`."""
    from .demonstrating import demo_command

    work = partial(
        demo_command,
        directory,
        examples=example or [],
        is_pair=pair,
        labels=labels or None,
        title=title,
        host=host,
        port=port,
    )
    return show(work, False)


@app.command(epilog="Example: hf-sidenet info bert-sst2-sidenet")
def info(directory: o.AnyDirectory, as_json: o.Json = False) -> int:
    """What is in a checkpoint: its MainNet, its exits, θ, temperatures, and the evidence behind θ."""
    from .checkpoints import info_command

    return show(partial(info_command, directory), as_json)
