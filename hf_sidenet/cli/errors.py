# SPDX-License-Identifier: Apache-2.0
"""Errors as one line on standard error that names the option."""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


FAILED, WRONG, DO_NOT_ATTACH = 1, 2, 3
TRACEBACK = "HF_SIDENET_TRACEBACK"
# Arguments of the library whose option has another name.
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
# Control characters except tab and newline, and those that change the writing direction.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MENTIONED = re.compile(r"`([a-z_0-9]+)(?:=True)?`")


class CommandError(Exception):
    """Invalid input. The message is shown to the user as it is."""


@cache
def _options() -> frozenset[str]:
    """Return the names of all options of all commands, spelled as in the library."""
    from .app import command

    commands = command().commands.values()
    return frozenset(param.name for each in commands for param in each.params if param.opts[0].startswith("--"))


def option_name(argument: str) -> str | None:
    """Return the option for an argument of the library, or `None` if there is none."""
    known = ARGUMENTS.get(argument)
    return known or ("--" + argument.replace("_", "-") if argument in _options() else None)


def in_options(text: str) -> str:
    """Put a text of the library on one line and replace arguments in backticks by their options.

    Example:

    ```python
    >>> in_options("needs `dataset_name`")
    'needs --dataset-name'
    ```
    """
    return MENTIONED.sub(lambda found: option_name(found[1]) or found[0], " ".join(text.split()))


def explained(error: Exception) -> str:
    """Return the message of an error without the name of its argument."""
    explanation, outputs = getattr(error, "explanation", None), getattr(error, "outputs", None)
    if explanation is not None:
        return in_options(explanation)
    if outputs is not None:
        # Labels in another order than the MainNet's outputs.
        return in_options(str(error).replace(f"labels={outputs}", f"--labels {shlex.join(outputs)}"))
    return in_options(str(error) or type(error).__name__)


@contextmanager
def attribute_errors_to(what: str, argument: str | None = None, *, besides: Collection[str] = ()) -> Iterator[None]:
    """Attribute a `ValueError` or `OSError` to one argument.

    Args:
        what (`str`): the argument as it appears on the command line.
        argument (`str`, *optional*): only errors about this argument of the library.
        besides (`Collection[str]`, *optional*): arguments whose errors are reported under their own options.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        about = getattr(error, "argument", None)
        if argument not in (None, about) or about in besides:
            raise
        raise CommandError(f"{what}: {explained(error)}") from error


def report_error(error: Exception) -> None:
    """Print one line to standard error; with `HF_SIDENET_TRACEBACK=1`, print the traceback first."""
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    print(f"Error: {printable(error_line(error))}", file=sys.stderr)


def printable(text: str) -> str:
    """Escape control characters: names of classes and files are not trusted."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def error_line(error: Exception) -> str:
    """Return the message of an error for the command line."""
    if isinstance(error, CommandError):
        return str(error)
    if _is_usage(error):
        return _usage_line(error)
    if isinstance(error, ValueError | ImportError | OSError):
        argument = getattr(error, "argument", None)
        typed = None if argument is None else option_name(argument)
        return f"{typed}: {explained(error)}" if typed else _unnamed(error)
    return f"{type(error).__name__}: {in_options(str(error))} (Set {TRACEBACK}=1 for a traceback.)"


def _unnamed(error: Exception) -> str:
    """Return the message of an error that is not about an option."""
    return in_options(str(error)) if hasattr(error, "explanation") else explained(error)


def exit_code(error: Exception) -> int:
    """Return 2 if other arguments or data would fix the error, else 1."""
    if isinstance(error, CommandError) or _is_usage(error):
        return WRONG
    return WRONG if isinstance(error, ValueError) else FAILED


def _is_usage(error: Exception) -> bool:
    # By its attributes: the module of the class depends on typer's version.
    return hasattr(error, "format_message")


def _usage_line(error: Any) -> str:
    param, message = getattr(error, "param", None), " ".join(str(getattr(error, "message", "") or "").split())
    if param is None:
        return " ".join(error.format_message().split())
    name = param.opts[0] if param.opts[0].startswith("-") else param.name.upper()
    return f"{name}: {'must be given.' if 'Missing' in type(error).__name__ else message}"
