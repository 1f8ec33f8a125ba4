# SPDX-License-Identifier: Apache-2.0
"""The options that commands share: how each is spelt and what its help says."""

from enum import Enum
from typing import Annotated

from typer import Argument, BadParameter, Option


DATA, SIDENETS, GUARANTEE, RUNNING, JOINT, OUTPUT, COMPARED, HUB, PAGE = (
    "Data",
    "SideNets",
    "Target and guarantee",
    "Running",
    "Joint training",
    "Output",
    "What is compared",
    "The Hub",
    "The page",
)
FILE = "csv, tsv, json, jsonl or parquet file, or folder with one sub-folder of pictures per class."

# Static twins of the library's own lists, which cost an import of torch.
Tune = Enum("Tune", {name: name for name in ("heads", "joint")}, type=str)
Reference = Enum("Reference", {name: name for name in ("given", "tuned")}, type=str)
TestMethod = Enum("TestMethod", {name: name for name in ("paired", "binomial", "betting")}, type=str)
Dtype = Enum("Dtype", {name: name for name in ("float32", "bfloat16", "float16")}, type=str)
ExportFormat = Enum("ExportFormat", {name: name for name in ("onnx", "torch")}, type=str)


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
AnyDirectory = Annotated[
    str,
    Argument(
        metavar="DIRECTORY", help="Checkpoint with SideNets: folder or Hub id; or a folder of `hf-sidenet export`."
    ),
]
Checkpoint = Annotated[
    str | None,
    Option(
        "--checkpoint",
        metavar="CHECKPOINT",
        help="For an exported DIRECTORY: what it was exported from, folder or Hub id. Risks are measured against its "
        "MainNet.",
        show_default=False,
    ),
]

TrainFile = Annotated[str | None, _file("train", "Rows to learn from:")]
KnownFile = Annotated[str | None, _file("train", "Training rows, of which the others must not be copies:")]
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
Labels = Annotated[
    list[str] | None,
    _option(
        "--labels",
        DATA,
        "What the data call the MainNet's outputs, in their order. Needed where neither the MainNet's own names nor "
        "the data set say which output a class is.",
        metavar="NAME NAME …",
    ),
]
TrustLabels = Annotated[
    bool,
    _option("--trust-labels", DATA, "Take the labels as they are, even where the MainNet's answers contradict them."),
]
TrustRows = Annotated[
    bool, _option("--trust-rows", DATA, "Take validation rows that repeat training rows too often for fresh ones.")
]
SkipBadRows = Annotated[
    bool,
    _option(
        "--skip-bad-rows",
        DATA,
        "Leave out, and count, rows without a text or a label, or with a picture that cannot be read.",
    ),
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
        "Classifier to compare with, folder or Hub id, as it is stored. By default the MainNet inside.",
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
NewDtype = Annotated[
    Dtype | None,
    _option(
        "--dtype",
        RUNNING,
        "Precision of the new checkpoint, and what is calibrated; risks are still measured against the MainNet as it "
        "is stored in DIRECTORY, or --reference. By default as it is stored.",
    ),
]

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
ExportDir = Annotated[
    str,
    _option("--output-dir", OUTPUT, "Folder for the stages, whole or not at all.", metavar="DIRECTORY"),
]
Overwrite = Annotated[
    bool, _option("--overwrite", OUTPUT, "The folder may hold something: what hf-sidenet wrote there is replaced.")
]
Json = Annotated[bool, _option("--json", OUTPUT, "Print one JSON document on standard output, and nothing else.")]

Precisions = Annotated[
    str,
    _option("--precision", COMPARED, "Of float32, bfloat16, float16; int8 in ONNX Runtime.", metavar="float32,…"),
]
Engines = Annotated[str, _option("--engines", COMPARED, "Of eager, compiled, onnx.", metavar="eager,…")]
Also = Annotated[
    list[str] | None,
    _option(
        "--also",
        COMPARED,
        "What θ was calibrated for in another precision, which then takes DIRECTORY's place there: a checkpoint of "
        "`hf-sidenet recalibrate --dtype`, or a folder of `hf-sidenet export`. May be repeated.",
        metavar="DIRECTORY",
    ),
]
GivenThresholds = Annotated[
    str | None, _option("--thresholds", COMPARED, "θ of each SideNet. By default the checkpoint's.", metavar="0.9,…")
]
MaxAccuracyDrop = Annotated[
    float,
    _option(
        "--max-accuracy-drop",
        COMPARED,
        "What is right on fewer rows than the first plain MainNet, by more than this fraction, does not count in the "
        "verdict.",
        min=0.0,
        max=1.0,
    ),
]
BatchSizes = Annotated[list[int], _option("--batch-size", RUNNING, "Rows per batch. Repeat it for several.", min=1)]
NumRows = Annotated[
    int, _option("--rows", RUNNING, "Rows, chosen at random; of these at most 128 batches at each batch size.", min=1)
]
Repeats = Annotated[
    int, _option("--repeats", RUNNING, "Rounds over the rows that count, after one that does not.", min=1)
]
Memory = Annotated[
    bool,
    _option("--memory", RUNNING, "Measure peak memory too, at one batch size: about 10 s per method."),
]
Threads = Annotated[int | None, _option("--threads", RUNNING, "CPU threads. By default PyTorch's.", min=1)]
Device = Annotated[
    str | None, _option("--device", RUNNING, "cpu, cuda, ... By default a GPU where there is one.", metavar="NAME")
]
RowSeed = Annotated[int, _option("--seed", RUNNING, "Of the choice of rows and the order of the turns.", min=0)]
BenchmarkDir = Annotated[
    str | None,
    _option("--output-dir", OUTPUT, "Folder for benchmark.json, .md, .png and a CSV file.", metavar="DIRECTORY"),
]

Format = Annotated[
    ExportFormat, _option("--format", OUTPUT, "onnx: for ONNX Runtime. torch: archives of torch.export.")
]
Int8 = Annotated[
    bool,
    _option("--int8", OUTPUT, "Linear layers and convolutions of the MainNet in int8; needs --format onnx."),
]
CalibrationFile = Annotated[
    str | None,
    Option(
        "--calibration-file",
        help="Training rows that show which numbers convolutions meet, for --int8 of a MainNet that has some; never "
        f"those that certify θ: {FILE}",
        metavar="PATH",
        rich_help_panel=DATA,
        show_default=False,
    ),
]

SharedDirectory = Annotated[
    str, Argument(metavar="DIRECTORY", help="Folder of a checkpoint with SideNets, or of `hf-sidenet export`.")
]
Repo = Annotated[
    str | None,
    Argument(metavar="REPO", help="Where to, as my-org/my-classifier. Made where it is missing.", show_default=False),
]
Private = Annotated[bool, _option("--private", HUB, "A new repository is private.")]
Token = Annotated[
    str | None,
    _option(
        "--token",
        HUB,
        "By default HF_TOKEN, or the one of `hf auth login`, which other people on this machine cannot read off the "
        "command.",
        metavar="TOKEN",
    ),
]
Branch = Annotated[
    str | None,
    _option("--revision", HUB, "Branch, made where it is missing. By default the main one.", metavar="NAME"),
]
Message = Annotated[str | None, _option("--message", HUB, "Of the commit.", metavar="TEXT")]
DryRun = Annotated[bool, _option("--dry-run", HUB, "Look and say, without any network. REPO need not be given.")]

Examples = Annotated[
    list[str] | None,
    _option("--example", PAGE, "A text, or a picture's path, to click on. May be repeated.", metavar="TEXT"),
]
Pair = Annotated[bool, _option("--pair", PAGE, "A row is two texts.")]
FileLabels = Annotated[
    list[str] | None,
    _option("--labels", PAGE, "What files call the outputs, in their order.", metavar="NAME NAME …"),
]
Title = Annotated[str | None, _option("--title", PAGE, "By default the name of DIRECTORY.", metavar="TEXT")]
Host = Annotated[str, _option("--host", PAGE, "Address to listen at; 0.0.0.0 lets others in.", metavar="ADDRESS")]
Port = Annotated[
    int | None, _option("--port", PAGE, "By default the first free one from 7860.", min=1, max=65535, metavar="NUMBER")
]
