# SPDX-License-Identifier: Apache-2.0
"""Options shared by several commands, including those about rows; other options are defined at their command."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, BadParameter, Option

from .errors import CommandError, explained


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data import Columns

# The panels of `--help`.
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
FILE = "csv, tsv, json, jsonl or parquet file, or folder with one subfolder of images per class."

# Copies of the library's own lists, which would import torch.
TestMethod = Literal["paired", "binomial", "betting"]
Dtype = Literal["float32", "bfloat16", "float16"]


def option(name: str, panel: str, text: str, **kwargs: Any) -> Any:
    """Define an option of a command.

    Args:
        name (`str`): name, including dashes.
        panel (`str`): panel of `--help`.
        text (`str`): help text.
        kwargs: further arguments of `typer.Option`.
    """
    return Option(name, help=text, rich_help_panel=panel, **kwargs)


def list_option(name: str, panel: str, text: str, item: str, **kwargs: Any) -> Any:
    """Define an option with several values, for a list parameter; see `app.Command` for its syntax."""
    return option(name, panel, text, metavar=f"{item} {item} …", **kwargs)


def whole_number(text: str) -> int:
    """Parse an item of a list of integers."""
    try:
        return int(text)
    except ValueError:
        raise BadParameter(f"must be whole numbers, got {text!r}.") from None


def number(text: str) -> float:
    """Parse an item of a list of numbers."""
    try:
        return float(text)
    except ValueError:
        raise BadParameter(f"must be numbers, got {text!r}.") from None


def between_0_and_1(value: float) -> float:
    """Check that an option is in (0, 1); a callback."""
    if not 0 < value < 1:
        raise BadParameter(f"must be between 0 and 1, both excluded, got {value:g}.")
    return value


Directory = Annotated[str, Argument(metavar="DIRECTORY", help="Checkpoint with SideNets: folder or Hub id.")]
AnyDirectory = Annotated[
    str,
    Argument(
        metavar="DIRECTORY",
        help="Checkpoint with SideNets: folder or Hub id; or a folder made by `hf-sidenet export`.",
    ),
]
ConfidenceLevel = Annotated[
    float,
    option(
        "--confidence-level",
        GUARANTEE,
        "Probability with which the guarantees hold, between 0 and 1.",
        callback=between_0_and_1,
    ),
]
Targets = Annotated[
    list[str],
    list_option(
        "--target",
        GUARANTEE,
        "Guaranteed: accuracy_drop<=0.01, selective_error<=0.05, disagreement<=0.02 (fractions). Budgets, not "
        "guaranteed: flops<=0.5, params<=0.7 (fractions of the MainNet's), latency_ms<=8 (milliseconds per row). "
        "Use quotes.",
        "NAME<=LIMIT",
    ),
]
Test = Annotated[
    TestMethod, option("--test-method", GUARANTEE, "Test for accuracy_drop, to be chosen before seeing any result.")
]
SameMaxLength = Annotated[
    int | None, option("--max-length", DATA, "Truncate texts to this many tokens. By default as when attached.", min=1)
]
SameBatchSize = Annotated[
    int | None,
    option("--batch-size", RUNNING, "Rows per call, also when measuring time. By default as when attached.", min=1),
]
ReferenceModel = Annotated[
    str | None,
    option(
        "--reference",
        RUNNING,
        "Classifier to compare with, folder or Hub id, used as stored. By default the MainNet inside.",
        metavar="MAINNET",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    option(
        "--trust-remote-code",
        RUNNING,
        "Run the code that comes with the MainNet. Read it first: it can do anything on this machine.",
    ),
]
Overwrite = Annotated[
    bool, option("--overwrite", OUTPUT, "The folder may exist: files that hf-sidenet wrote there are replaced.")
]
Json = Annotated[bool, option("--json", OUTPUT, "Print a single JSON document to standard output.")]


@dataclass(frozen=True)
class DataOptions:
    """Options about rows. Each field is an option of the same name; [`Rows`] selects those a command has.

    Args:
        files (`Mapping[str, str | None]`): path by split.
        flags (`Mapping[str, str]`): option of the file by split.
    """

    files: Mapping[str, str | None]
    flags: Mapping[str, str]
    dataset_name: Annotated[
        str | None,
        option("--dataset-name", DATA, "Data set on the Hub, or its folder, instead of files.", metavar="NAME"),
    ] = None
    dataset_config: Annotated[
        str | None,
        option("--dataset-config", DATA, "Configuration of the data set, e.g. sst2 of glue.", metavar="NAME"),
    ] = None
    no_header: Annotated[
        bool,
        option("--no-header", DATA, "csv and tsv files have no header: the texts come first, the class last."),
    ] = False
    text_column: Annotated[
        list[str] | None,
        list_option("--text-column", DATA, "Column with the texts; two for pairs. Detected by default.", "NAME"),
    ] = None
    image_column: Annotated[
        str | None, option("--image-column", DATA, "Column with images or their paths.", metavar="NAME")
    ] = None
    label_column: Annotated[
        str | None, option("--label-column", DATA, "Column with the class, by name or index.", metavar="NAME")
    ] = None
    labels: Annotated[
        list[str] | None,
        list_option(
            "--labels",
            DATA,
            "Names of the classes in the data, in the order of the MainNet's outputs. Needed if neither the MainNet's "
            "own names nor the data set say which output belongs to which class.",
            "NAME",
        ),
    ] = None
    trust_labels: Annotated[
        bool,
        option("--trust-labels", DATA, "Accept the labels even if the MainNet's answers contradict them."),
    ] = False
    skip_bad_rows: Annotated[
        bool,
        option(
            "--skip-bad-rows",
            DATA,
            "Skip and count rows without a text or a label, or with an unreadable image.",
        ),
    ] = False
    trust_rows: Annotated[
        bool,
        option("--trust-rows", DATA, "Accept the validation rows even if too many of them repeat training rows."),
    ] = False

    @property
    def given(self) -> bool:
        """Whether any rows were given."""
        return self.dataset_name is not None or any(path is not None for path in self.files.values())

    @property
    def name(self) -> str:
        """File or data set of a command that reads one split, for display."""
        return next((path for path in self.files.values() if path is not None), self.dataset_name or "")

    @property
    def sources(self) -> dict[str, str | None]:
        """Paths that are read, by option; see [`refuse_source`]."""
        files = {self.flags[split]: path for split, path in self.files.items()}
        return {**files, "--dataset-name": self.dataset_name}

    @property
    def about_labels(self) -> dict[str, Any]:
        """Arguments of the library about labels and bad rows."""
        return {
            "labels": self.labels or None,
            "trust_labels": self.trust_labels,
            "skip_bad_rows": self.skip_bad_rows,
        }

    def load(self, required: Sequence[str], optional: Sequence[str] = ()) -> "tuple[dict[str, Dataset], Columns]":
        """Load splits and their columns; see [`load_splits`].

        Args:
            required (`Sequence[str]`): splits that must exist, with labels.
            optional (`Sequence[str]`, *optional*): splits that may exist; labels are required if a file was given.
        """
        files = {split: path for split, path in self.files.items() if path is not None}
        if self.dataset_name is not None and files:
            raise CommandError(
                f"--dataset-name: must not be given together with {self.flags[next(iter(files))]}, got "
                f"{self.dataset_name!r}."
            )
        if not self.given:
            raise CommandError(f"{self.flags[required[0]]}: must be given, or --dataset-name.")
        from ..data import load_splits

        try:
            return load_splits(
                dataset_name=self.dataset_name,
                dataset_config=self.dataset_config,
                files=files or None,
                no_header=self.no_header,
                text_columns=self.text_column or None,
                image_column=self.image_column,
                label_column=self.label_column,
                splits=(*required, *optional),
                required=(*required, *(split for split in optional if split in files)),
            )
        except ValueError as error:
            split = getattr(error, "argument", "").removesuffix("_file")
            if split not in self.flags:
                raise
            raise CommandError(f"{self.flags[split]}: {explained(error)}") from error

    @contextmanager
    def attribute_errors(self) -> Iterator[None]:
        """Attribute an error about the rows of a split to their option, and name the file."""
        try:
            yield
        except ValueError as error:
            split = getattr(error, "argument", None)
            if split is None or split not in self.files:
                raise
            where = self.files[split] or split
            raise CommandError(f"{self.option_of(split)}: {explained(error)} (in {where})") from error

    def option_of(self, split: str) -> str:
        """Return the option that the rows of a split came from."""
        return self.flags[split] if self.dataset_name is None else "--dataset-name"


class Rows:
    """Data options of a command: `Annotated[DataOptions, Rows(test="Test rows:")]`.

    Args:
        without (`Sequence[str]`, *optional*): fields of [`DataOptions`] that do not apply.
        flags (`Mapping[str, str]`, *optional*): options of splits whose file is not `--<split>-file`.
        files (`str`): what the rows of a split are for.
    """

    def __init__(
        self, without: Sequence[str] = ("trust_rows",), flags: Mapping[str, str] | None = None, **files: str
    ) -> None:
        self.files = files
        self.flags = {split: (flags or {}).get(split, f"--{split}-file") for split in files}
        self.fields = [each for each in fields(DataOptions) if each.name not in ("files", "flags", *without)]

    def parameters(self) -> list[inspect.Parameter]:
        """Return the parameters of the command that replace its [`DataOptions`]."""
        kind = inspect.Parameter.KEYWORD_ONLY
        files = [
            inspect.Parameter(
                _parameter_name(flag),
                kind,
                default=None,
                annotation=Annotated[
                    str | None,
                    option(flag, DATA, f"{self.files[split]} {FILE}", metavar="PATH", show_default=False),
                ],
            )
            for split, flag in self.flags.items()
        ]
        others = [
            inspect.Parameter(each.name, kind, default=each.default, annotation=each.type) for each in self.fields
        ]
        return [*files, *others]

    def take(self, given: dict[str, Any]) -> DataOptions:
        """Take the arguments of [`parameters`] out of `given`."""
        files = {split: given.pop(_parameter_name(flag)) for split, flag in self.flags.items()}
        return DataOptions(files, self.flags, **{each.name: given.pop(each.name) for each in self.fields})


def _parameter_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
