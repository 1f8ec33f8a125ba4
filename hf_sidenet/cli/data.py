# SPDX-License-Identifier: Apache-2.0
"""Rows from the data options of a command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .errors import CommandError, in_flags


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data import Columns


@dataclass(frozen=True)
class DataOptions:
    """What a user said about the rows; the fields are options by name.

    Args:
        files (`dict[str, str | None]`): by split.
    """

    files: dict[str, str | None]
    dataset_name: str | None
    dataset_config: str | None
    no_header: bool
    text_column: Sequence[str] | None
    image_column: str | None
    label_column: str | None
    labels: Sequence[str] | None = None
    trust_labels: bool = False
    skip_bad_rows: bool = False
    trust_rows: bool = False

    @classmethod
    def given(cls, files: "dict[str, str | None]", options: dict[str, Any]) -> "DataOptions":
        """From the options of a command, by the names of the fields."""
        names = [field.name for field in fields(cls) if field.name in options]
        return cls(files, **{name: options[name] for name in names})

    def load(self, required: Sequence[str], optional: Sequence[str] = ()) -> "tuple[dict[str, Dataset], Columns]":
        """Splits and their columns; see [`load_splits`].

        Args:
            required (`Sequence[str]`): splits that must be there, with labels.
            optional (`Sequence[str]`): splits that may be; with labels where the user named their file.
        """
        files = {split: path for split, path in self.files.items() if path is not None}
        if self.dataset_name is not None and files:
            raise CommandError(
                f"--dataset-name: must not be given together with --{next(iter(files))}-file, got "
                f"{self.dataset_name!r}."
            )
        if self.dataset_name is None and not files:
            raise CommandError(f"--{required[0]}-file: must be given, or --dataset-name.")
        from ..data import load_splits

        return load_splits(
            dataset_name=self.dataset_name,
            dataset_config=self.dataset_config,
            files=files or None,
            header=not self.no_header,
            text_columns=self.text_column or None,
            image_column=self.image_column,
            label_column=self.label_column,
            splits=(*required, *optional),
            required=(*required, *(split for split in optional if split in files)),
        )

    @property
    def about_labels(self) -> dict[str, Any]:
        """Arguments of the library that say what rows and labels are taken for."""
        return {
            "labels": self.labels or None,
            "trust_labels": self.trust_labels,
            "skip_bad_rows": self.skip_bad_rows,
        }

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """An error about the rows of a split is the fault of the option that they came from, and names the file."""
        try:
            yield
        except ValueError as error:
            split = next((split for split in self.files if str(error).startswith(f"`{split}`")), None)
            if split is None:
                raise
            what = str(error).removeprefix(f"`{split}`").strip()
            path = self.files[split]
            where = f" (in {path})" if path is not None else f" (in {split})"
            raise CommandError(f"{self.spelt(split)}: {in_flags(what)}{where}") from error

    def spelt(self, split: str) -> str:
        """The option that the rows of a split came from."""
        return f"--{split}-file" if self.dataset_name is None else "--dataset-name"


def listed(option: str, text: str | None, kind: type = str) -> list[Any] | None:
    """The items of an option that takes several with commas.

    Raises:
        CommandError: an item is empty, or not of this kind.
    """
    if text is None:
        return None
    try:
        items = [kind(item.strip()) for item in text.split(",")]
    except ValueError:
        numbers = "whole numbers" if kind is int else "numbers"
        raise CommandError(f"{option}: must be {numbers} with commas between them, got {text!r}.") from None
    if "" in items:
        raise CommandError(f"{option}: must be names with commas between them, got {text!r}.")
    return items
