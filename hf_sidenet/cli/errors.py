# SPDX-License-Identifier: Apache-2.0
"""Errors as one line on standard error, which names the flag."""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


FAILED, WRONG, DO_NOT_ATTACH = 1, 2, 3
TRACEBACK = "HF_SIDENET_TRACEBACK"
# What the library calls differently.
ARGUMENTS = {
    "mainnet": "MAINNET",
    "directory": "DIRECTORY",
    "repo_id": "REPO",
    "text_columns": "--text-column",
    "exit_layer": "--exit-layers",
    "pooling": "--poolings",
    "precisions": "--precision",
    "batch_sizes": "--batch-size",
    "is_pair": "--pair",
    "examples": "--example",
    "calibration_rows": "--calibration-file",
}
# All but tabs and ends of lines; also those that turn the direction of writing.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MENTIONED = re.compile(r"`([a-z_0-9]+)`")


class CommandError(Exception):
    """Invalid input; the message is complete."""


@cache
def _options() -> frozenset[str]:
    """The names of all options of all commands, as the library spells them."""
    from .app import command

    commands = command().commands.values()
    return frozenset(param.name for each in commands for param in each.params if param.opts[0].startswith("--"))


def option_name(argument: str) -> str | None:
    """How an argument of the library is typed; `None` for what is no option."""
    known = ARGUMENTS.get(argument)
    return known or ("--" + argument.replace("_", "-") if argument in _options() else None)


def in_options(text: str) -> str:
    """A text of the library on one line, with the arguments that it mentions, in backticks, as they are typed.

    Example:

    ```python
    >>> in_options("needs `dataset_name`")
    'needs --dataset-name'
    ```
    """
    return MENTIONED.sub(lambda found: option_name(found[1]) or found[0], " ".join(text.split()))


def explained(error: Exception) -> str:
    """What an error says, without the name of the argument where it has one."""
    explanation, outputs = getattr(error, "explanation", None), getattr(error, "outputs", None)
    if explanation is not None:
        return in_options(explanation)
    if outputs is not None:
        # Of labels in another order than the MainNet's outputs.
        return in_options(str(error).replace(f"labels={outputs}", f"--labels {shlex.join(outputs)}"))
    return in_options(str(error) or type(error).__name__)


@contextmanager
def attribute_errors_to(what: str, argument: str | None = None) -> Iterator[None]:
    """A `ValueError` or `OSError` is the fault of one argument.

    Args:
        what (`str`): the argument as it is typed.
        argument (`str`, *optional*): only errors about this argument of the library.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if argument not in (None, getattr(error, "argument", None)):
            raise
        raise CommandError(f"{what}: {explained(error)}") from error


def report_error(error: Exception) -> None:
    """One line on standard error; with `HF_SIDENET_TRACEBACK=1` the traceback before it."""
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    print(f"Error: {printable(error_line(error))}", file=sys.stderr)


def printable(text: str) -> str:
    """A text without characters that a terminal would obey: names of classes and files are other people's."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def error_line(error: Exception) -> str:
    """What an error says to the user of the command line."""
    if isinstance(error, CommandError):
        return str(error)
    if _is_usage(error):
        return _usage_line(error)
    if isinstance(error, ValueError | ImportError | OSError):
        argument = getattr(error, "argument", None)
        typed = None if argument is None else option_name(argument)
        return f"{typed}: {explained(error)}" if typed else _unnamed(error)
    return f"{type(error).__name__}: {in_options(str(error))} ({TRACEBACK}=1 shows where.)"


def _unnamed(error: Exception) -> str:
    """An error about no option."""
    return in_options(str(error)) if hasattr(error, "explanation") else explained(error)


def exit_code(error: Exception) -> int:
    """2 where the user can fix it with other arguments or data, else 1."""
    if isinstance(error, CommandError) or _is_usage(error):
        return WRONG
    return WRONG if isinstance(error, ValueError) else FAILED


def _is_usage(error: Exception) -> bool:
    # By its shape: which module the class is in depends on typer's version.
    return hasattr(error, "format_message")


def _usage_line(error: Any) -> str:
    param, message = getattr(error, "param", None), " ".join(str(getattr(error, "message", "") or "").split())
    if param is None:
        return " ".join(error.format_message().split())
    name = param.opts[0] if param.opts[0].startswith("-") else param.name.upper()
    return f"{name}: {'must be given.' if 'Missing' in type(error).__name__ else message}"
