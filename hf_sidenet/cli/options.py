# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share, those about rows among them; the others are written at their command."""

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
FILE = "csv, tsv, json, jsonl or parquet file, or folder with one sub-folder of pictures per class."

# Static twins of the library's own lists, which cost an import of torch.
TestMethod = Literal["paired", "binomial", "betting"]
Dtype = Literal["float32", "bfloat16", "float16"]


def option(name: str, panel: str, text: str, **kwargs: Any) -> Any:
    """An option of a command.

    Args:
        name (`str`): with its dashes.
        panel (`str`): where `--help` shows it.
        text (`str`): what `--help` says.
        kwargs: of `typer.Option`.
    """
    return Option(name, help=text, rich_help_panel=panel, **kwargs)


def list_option(name: str, panel: str, text: str, item: str, **kwargs: Any) -> Any:
    """An option with several values, for a parameter that is a list; see `app.Command` for how they are typed."""
    return option(name, panel, text, metavar=f"{item} {item} …", **kwargs)


def whole_number(text: str) -> int:
    """Parser of the items of a list."""
    try:
        return int(text)
    except ValueError:
        raise BadParameter(f"must be whole numbers, got {text!r}.") from None


def number(text: str) -> float:
    """Parser of the items of a list."""
    try:
        return float(text)
    except ValueError:
        raise BadParameter(f"must be numbers, got {text!r}.") from None


def between_0_and_1(value: float) -> float:
    """Callback of an option."""
    if not 0 < value < 1:
        raise BadParameter(f"must be between 0 and 1, both excluded, got {value:g}.")
    return value


Directory = Annotated[str, Argument(metavar="DIRECTORY", help="Checkpoint with SideNets: folder or Hub id.")]
AnyDirectory = Annotated[
    str,
    Argument(
        metavar="DIRECTORY", help="Checkpoint with SideNets: folder or Hub id; or a folder of `hf-sidenet export`."
    ),
]
ConfidenceLevel = Annotated[
    float,
    option(
        "--confidence-level",
        GUARANTEE,
        "Probability with which guarantees hold, between 0 and 1.",
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
        "In quotes.",
        "NAME<=LIMIT",
    ),
]
Test = Annotated[
    TestMethod, option("--test-method", GUARANTEE, "Test of accuracy_drop, chosen before any result is seen.")
]
SameMaxLength = Annotated[
    int | None, option("--max-length", DATA, "Longer texts are cut, in tokens. By default as when attached.", min=1)
]
SameBatchSize = Annotated[
    int | None,
    option("--batch-size", RUNNING, "Rows per call; it is also what is timed. By default as when attached.", min=1),
]
ReferenceModel = Annotated[
    str | None,
    option(
        "--reference",
        RUNNING,
        "Classifier to compare with, folder or Hub id, as it is stored. By default the MainNet inside.",
        metavar="MAINNET",
    ),
]
Overwrite = Annotated[
    bool, option("--overwrite", OUTPUT, "The folder may hold something: what hf-sidenet wrote there is replaced.")
]
Json = Annotated[bool, option("--json", OUTPUT, "Print one JSON document on standard output, and nothing else.")]


@dataclass(frozen=True)
class DataOptions:
    """What a user said about the rows. A field is an option, by its name; a command says by [`Rows`] which it has.

    Args:
        files (`Mapping[str, str | None]`): by split.
        flags (`Mapping[str, str]`): the options of the files, by split.
    """

    files: Mapping[str, str | None]
    flags: Mapping[str, str]
    dataset_name: Annotated[
        str | None,
        option("--dataset-name", DATA, "Instead of files: data set on the Hub, or its folder.", metavar="NAME"),
    ] = None
    dataset_config: Annotated[
        str | None, option("--dataset-config", DATA, "Its configuration, as sst2 of glue.", metavar="NAME")
    ] = None
    no_header: Annotated[
        bool,
        option("--no-header", DATA, "csv and tsv files have no line with names: texts come first, the class last."),
    ] = False
    text_column: Annotated[
        list[str] | None,
        list_option(
            "--text-column", DATA, "Column with the texts; two for pairs. By default it is looked for.", "NAME"
        ),
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
            "What the data call the MainNet's outputs, in their order. Needed where neither the MainNet's own names "
            "nor the data set say which output a class is.",
            "NAME",
        ),
    ] = None
    trust_labels: Annotated[
        bool,
        option(
            "--trust-labels", DATA, "Take the labels as they are, even where the MainNet's answers contradict them."
        ),
    ] = False
    skip_bad_rows: Annotated[
        bool,
        option(
            "--skip-bad-rows",
            DATA,
            "Leave out, and count, rows without a text or a label, or with a picture that cannot be read.",
        ),
    ] = False
    trust_rows: Annotated[
        bool,
        option("--trust-rows", DATA, "Take validation rows that repeat training rows too often for fresh ones."),
    ] = False

    @property
    def given(self) -> bool:
        """Whether there are rows at all."""
        return self.dataset_name is not None or any(path is not None for path in self.files.values())

    @property
    def name(self) -> str:
        """The file, or the data set, by which people know the rows of a command that reads one split."""
        return next((path for path in self.files.values() if path is not None), self.dataset_name or "")

    @property
    def sources(self) -> dict[str, str | None]:
        """What is read, by its option; see [`refuse_source`]."""
        files = {self.flags[split]: path for split, path in self.files.items()}
        return {**files, "--dataset-name": self.dataset_name}

    @property
    def about_labels(self) -> dict[str, Any]:
        """Arguments of the library that say what rows and labels are taken for."""
        return {
            "labels": self.labels or None,
            "trust_labels": self.trust_labels,
            "skip_bad_rows": self.skip_bad_rows,
        }

    def load(self, required: Sequence[str], optional: Sequence[str] = ()) -> "tuple[dict[str, Dataset], Columns]":
        """Splits and their columns; see [`load_splits`].

        Args:
            required (`Sequence[str]`): splits that must be there, with labels.
            optional (`Sequence[str]`): splits that may be; with labels where the user named their file.
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
        """An error about the rows of a split is the fault of the option that they came from, and names the file."""
        try:
            yield
        except ValueError as error:
            split = getattr(error, "argument", None)
            if split is None or split not in self.files:
                raise
            where = self.files[split] or split
            raise CommandError(f"{self.option_of(split)}: {explained(error)} (in {where})") from error

    def option_of(self, split: str) -> str:
        """The option that the rows of a split came from."""
        return self.flags[split] if self.dataset_name is None else "--dataset-name"


class Rows:
    """Which data options a command has: `Annotated[DataOptions, Rows(test="Rows to report on:")]`.

    Args:
        without (`Sequence[str]`, *optional*): fields of [`DataOptions`] that would mean nothing to it.
        flags (`Mapping[str, str]`, *optional*): of splits whose file is not `--<split>-file`.
        files (`str`): what the rows of a split are for.
    """

    def __init__(
        self, without: Sequence[str] = ("trust_rows",), flags: Mapping[str, str] | None = None, **files: str
    ) -> None:
        self.files = files
        self.flags = {split: (flags or {}).get(split, f"--{split}-file") for split in files}
        self.fields = [each for each in fields(DataOptions) if each.name not in ("files", "flags", *without)]

    def parameters(self) -> list[inspect.Parameter]:
        """Of the command as it is typed, in place of its [`DataOptions`]."""
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
        """What was typed, out of the arguments of all [`parameters`]."""
        files = {split: given.pop(_parameter_name(flag)) for split, flag in self.flags.items()}
        return DataOptions(files, self.flags, **{each.name: given.pop(each.name) for each in self.fields})


def _parameter_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
