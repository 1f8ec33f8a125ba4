# SPDX-License-Identifier: Apache-2.0
"""What a command found, printed for people or as JSON, without what libraries say to programmers."""

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


# Library → level from which on it is heard. What datasets logs as an error, it also raises.
LEVELS = {"transformers": logging.ERROR, "datasets": logging.CRITICAL, "torch": logging.ERROR}


@dataclass(frozen=True)
class Outcome:
    """What a command found.

    Args:
        document (`dict[str, Any]`): for `--json`.
        text (`str`): for people.
        code (`int`): exit code.
    """

    document: dict[str, Any]
    text: str
    code: int = 0


def show(work: Callable[[], Outcome], as_json: bool) -> int:
    """Do the work and print what it found; standard output has nothing else.

    Returns:
        `int`: the exit code.
    """
    # Some libraries print their progress.
    with redirect_stdout(sys.stderr), quiet():
        outcome = work()
    print(json_text(outcome.document) if as_json else printable(outcome.text))
    return outcome.code


def refuse_source(output_dir: str | None, **sources: str | None) -> None:
    """Refuse a folder that holds what is being read: replacing it would take that away.

    Args:
        output_dir (`str`, *optional*): the folder to write, if any.
        sources (`str`, *optional*): paths by what they are called; Hub ids are no paths.

    Raises:
        CommandError: it is one of them, or has one in it.
    """
    if output_dir is None:
        return
    output = Path(output_dir).resolve()
    for name, source in sources.items():
        if source is not None and Path(source).exists():
            path = Path(source).resolve()
            if output == path or output in path.parents:
                raise CommandError(f"--output-dir: must be another folder than that of {name}, got {output_dir!r}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' warnings, unless Python or a library was told to show them.

    `PYTHONWARNINGS`, `TRANSFORMERS_VERBOSITY` and `DATASETS_VERBOSITY` are such.
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
            # Read once, when the library is imported.
            os.environ[variable] = logging.getLevelName(level).lower()
        logging.getLogger(library).setLevel(level)
    try:
        yield
    finally:
        for library, level in before.items():
            logging.getLogger(library).setLevel(level)
