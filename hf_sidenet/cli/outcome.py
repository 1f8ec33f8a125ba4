# SPDX-License-Identifier: Apache-2.0
"""Printing the outcome of a command, as text or JSON, without the warnings of libraries."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.json import json_text
from .errors import CommandError, printable


# Library → lowest level shown. datasets also raises what it logs as an error.
LEVELS = {"transformers": logging.ERROR, "datasets": logging.CRITICAL, "torch": logging.ERROR}


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command.

    Args:
        document (`dict[str, Any]`): printed with `--json`.
        text (`str`): printed otherwise.
        code (`int`, *optional*, defaults to 0): exit code.
    """

    document: dict[str, Any]
    text: str
    code: int = 0


def show(work: Callable[[], Outcome], as_json: bool) -> int:
    """Run `work` and print its outcome, and nothing else, to standard output.

    Returns:
        `int`: the exit code.
    """
    # Some libraries print their progress.
    with redirect_stdout(sys.stderr), quiet():
        outcome = work()
    print(json_text(outcome.document) if as_json else printable(outcome.text))
    return outcome.code


def refuse_source(output_dir: str | None, **sources: str | None) -> None:
    """Refuse an output folder that is or contains an input, which it would replace.

    Args:
        output_dir (`str`, *optional*): the folder to write.
        sources (`str`, *optional*): inputs by their option; Hub ids are ignored.

    Raises:
        CommandError: the folder is an input or contains one.
    """
    if output_dir is None:
        return
    output = Path(output_dir).resolve()
    for name, source in sources.items():
        if source is not None and Path(source).exists():
            path = Path(source).resolve()
            if output == path or output in path.parents:
                raise CommandError(f"--output-dir: must not be or contain {name}, got {output_dir!r}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' warnings, unless `PYTHONWARNINGS`, `TRANSFORMERS_VERBOSITY` or `DATASETS_VERBOSITY` say
    otherwise.
    """
    with warnings.catch_warnings(), _levels():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def _levels() -> Iterator[None]:
    before = {}
    for library, level in LEVELS.items():
        variable = f"{library.upper()}_VERBOSITY"
        if variable in os.environ:
            continue
        if library in sys.modules:
            before[library] = logging.getLogger(library).level
        else:
            # The library reads this once, on import.
            os.environ[variable] = logging.getLevelName(level).lower()
        logging.getLogger(library).setLevel(level)
    try:
        yield
    finally:
        for library, level in before.items():
            logging.getLogger(library).setLevel(level)
