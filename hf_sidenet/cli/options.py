# SPDX-License-Identifier: Apache-2.0
"""The options that commands share: how each is spelt and what its help says."""

from enum import Enum
from typing import Annotated

from typer import Argument, BadParameter, Option


DATA, SIDENETS, GUARANTEE, RUNNING, JOINT, OUTPUT = (
    "Data",
    "SideNets",
    "Target and guarantee",
    "Running",
    "Joint training",
    "Output",
)
FILE = "csv, tsv, json, jsonl or parquet file, or folder with one sub-folder of pictures per class."

# Static twins of the library's own lists, which cost an import of torch.
Tune = Enum("Tune", {name: name for name in ("heads", "joint")}, type=str)
Reference = Enum("Reference", {name: name for name in ("given", "tuned")}, type=str)
TestMethod = Enum("TestMethod", {name: name for name in ("paired", "binomial", "betting")}, type=str)
Dtype = Enum("Dtype", {name: name for name in ("float32", "bfloat16", "float16")}, type=str)


def _file(split: str, what: str):
    return Option(f"--{split}-file", help=f"{what} {FILE}", metavar="PATH", rich_help_panel=DATA, show_default=False)


def _option(name: str, panel: str, text: str, **kwargs):
    return Option(name, help=text, rich_help_panel=panel, **kwargs)


def _between_0_and_1(value: float) -> float:
    if not 0 < value < 1:
        raise BadParameter(f"must be between 0 and 1, both excluded, got {value:g}.")
    return value


MainNet = Annotated[str, Argument(metavar="MAINNET", help="Fine-tuned classifier: folder or Hub id.")]
Directory = Annotated[str, Argument(metavar="DIRECTORY", help="Checkpoint with SideNets: folder or Hub id.")]

TrainFile = Annotated[str | None, _file("train", "Rows to learn from:")]
KnownFile = Annotated[str | None, _file("train", "Training rows, so that equal validation rows are left out:")]
ValidationFile = Annotated[str | None, _file("validation", "Rows that neither trained nor selected the MainNet:")]
TestFile = Annotated[str | None, _file("test", "Rows to report on, which choose nothing:")]
DatasetName = Annotated[
    str | None,
    _option("--dataset-name", DATA, "Instead of files: data set on the Hub, or its folder.", metavar="NAME"),
]
DatasetConfig = Annotated[
    str | None, _option("--dataset-config", DATA, "Its configuration, as sst2 of glue.", metavar="NAME")
]
NoHeader = Annotated[
    bool,
    _option("--no-header", DATA, "csv and tsv files have no line with names: texts come first, the class last."),
]
TextColumn = Annotated[
    list[str] | None,
    _option(
        "--text-column",
        DATA,
        "Column with the texts; give two for pairs. By default it is looked for.",
        metavar="NAME",
    ),
]
ImageColumn = Annotated[
    str | None, _option("--image-column", DATA, "Column with images or their paths.", metavar="NAME")
]
LabelColumn = Annotated[
    str | None, _option("--label-column", DATA, "Column with the class, by name or index.", metavar="NAME")
]
MaxLength = Annotated[
    int | None,
    _option("--max-length", DATA, "Longer texts are cut, in tokens. By default the tokenizer's, at most 512.", min=1),
]
SameMaxLength = Annotated[
    int | None, _option("--max-length", DATA, "Longer texts are cut, in tokens. By default as when attached.", min=1)
]

Targets = Annotated[
    list[str],
    _option(
        "--target",
        GUARANTEE,
        "Guaranteed: accuracy_drop<=0.01, selective_error<=0.05, disagreement<=0.02 (fractions). Budgets, not "
        "guaranteed: flops<=0.5, params<=0.7 (fractions of the MainNet's), latency_ms<=8 (milliseconds per row). "
        "In quotes; repeat the option for several limits.",
        metavar="NAME<=LIMIT",
    ),
]
ConfidenceLevel = Annotated[
    float,
    _option(
        "--confidence-level",
        GUARANTEE,
        "Probability with which guarantees hold, between 0 and 1.",
        callback=_between_0_and_1,
    ),
]
Test = Annotated[
    TestMethod,
    _option("--test-method", GUARANTEE, "Test of accuracy_drop, chosen before any result is seen."),
]
CertificationFraction = Annotated[
    float,
    _option(
        "--certification-fraction",
        GUARANTEE,
        "Share of the validation rows that certifies and does nothing else.",
        callback=_between_0_and_1,
    ),
]

ExitLayers = Annotated[
    str | None,
    _option(
        "--exit-layers", SIDENETS, "Candidate places: blocks before a SideNet. By default every one.", metavar="1,2,…"
    ),
]
Poolings = Annotated[
    str | None,
    _option(
        "--poolings",
        SIDENETS,
        "Candidate poolings: mean, cls, gap, flatten. By default mean and cls of tokens, gap of feature maps.",
        metavar="mean,…",
    ),
]
MaxExits = Annotated[int, _option("--max-exits", SIDENETS, "The most SideNets.", min=1)]
HiddenSize = Annotated[int, _option("--hidden-size", SIDENETS, "Width of a SideNet's hidden layer.", min=1)]
DistillationWeight = Annotated[
    float | None,
    _option(
        "--distillation-weight",
        SIDENETS,
        "w in (1 − w)·CE + w·T²·KL to the MainNet, the loss of a SideNet. "
        "[dim]\\[default: 0.5 for heads, 0.7 for joint][/dim]",
        min=0.0,
        max=1.0,
    ),
]
TuneMode = Annotated[
    Tune,
    _option("--tune", JOINT, "heads: the MainNet stays as it is. joint: afterwards all is fine-tuned together."),
]
JointEpochs = Annotated[
    float | None, _option("--joint-epochs", JOINT, "Passes over the training rows. [dim]\\[default: 4][/dim]", min=0.0)
]
JointLearningRate = Annotated[
    float | None,
    _option("--joint-learning-rate", JOINT, "Of the MainNet. [dim]\\[default: 5e-5][/dim]", min=0.0),
]
JointBatchSize = Annotated[
    int | None, _option("--joint-batch-size", JOINT, "Rows per step. [dim]\\[default: 32][/dim]", min=1)
]
ReferenceMode = Annotated[
    Reference,
    _option("--reference", JOINT, "Classifier that risks are measured against: the given one, or the tuned one."),
]

BatchSize = Annotated[int, _option("--batch-size", RUNNING, "Rows per call; it is also what is timed.", min=1)]
SameBatchSize = Annotated[
    int | None,
    _option("--batch-size", RUNNING, "Rows per call; it is also what is timed. By default as when attached.", min=1),
]
ReferenceModel = Annotated[
    str | None,
    _option(
        "--reference",
        RUNNING,
        "Classifier to compare with, folder or Hub id. By default the MainNet inside.",
        metavar="MAINNET",
    ),
]
Seed = Annotated[int, _option("--seed", RUNNING, "Of the split of the validation rows and of training.", min=0)]
CacheDir = Annotated[
    str | None,
    _option(
        "--cache-dir", RUNNING, "Where features are kept. By default hf_sidenet in $HF_HOME.", metavar="DIRECTORY"
    ),
]
Revision = Annotated[
    str | None, _option("--revision", RUNNING, "Branch, tag or commit of MAINNET on the Hub.", metavar="NAME")
]
DtypeName = Annotated[Dtype | None, _option("--dtype", RUNNING, "Precision of the model. By default as it is stored.")]

OutputDir = Annotated[
    str,
    _option("--output-dir", OUTPUT, "Folder for the checkpoint, whole or not at all.", metavar="DIRECTORY"),
]
FiguresDir = Annotated[
    str | None,
    _option("--output-dir", OUTPUT, "Folder for evaluation.json and four figures.", metavar="DIRECTORY"),
]
NewDir = Annotated[
    str | None,
    _option(
        "--output-dir",
        OUTPUT,
        "Folder for the new checkpoint. Without it DIRECTORY itself is changed, which needs --overwrite.",
        metavar="DIRECTORY",
    ),
]
Overwrite = Annotated[bool, _option("--overwrite", OUTPUT, "The folder may hold something, which is replaced.")]
Json = Annotated[bool, _option("--json", OUTPUT, "Print one JSON document on standard output, and nothing else.")]
