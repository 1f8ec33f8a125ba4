# SPDX-License-Identifier: Apache-2.0
"""Errors as one line on standard error, which names the flag."""

import os
import re
import shlex
import sys
import traceback
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager


FAILED, WRONG, DO_NOT_ATTACH = 1, 2, 3
TRACEBACK = "HF_SIDENET_TRACEBACK"
# What the library calls differently.
ARGUMENTS = {"mainnet": "MAINNET", "directory": "DIRECTORY", "repo_id": "REPO"}
FLAGS = {
    "text_columns": "--text-column",
    "exit_layer": "--exit-layers",
    "pooling": "--poolings",
    "precisions": "--precision",
    "batch_sizes": "--batch-size",
    "is_pair": "--pair",
    "examples": "--example",
    "calibration_rows": "--calibration-file",
}
# The command line can only switch the header off.
PHRASES = (
    ("`header` must be True", "`no_header` must not be given"),
    ("got False with ", "got "),
    ("For a file without a header line: `header` False.", "For a file without a header line: `no_header`."),
)
# Arguments of the library that are flags here.
NAMES = frozenset(
    {
        "also", "batch_size", "cache_dir", "calibration_file", "certification_fraction", "confidence_level",
        "dataset_config", "dataset_name", "distillation_weight", "dtype", "exit_layers", "hidden_size", "image_column",
        "int8", "joint", "label_column", "labels", "max_exits", "max_length", "no_header", "output_dir", "overwrite",
        "poolings", "port", "reference", "revision", "seed", "skip_bad_rows", "small_model", "target", "test_file",
        "test_method", "thresholds", "token", "train_file", "truncated", "trust_labels", "trust_rows", "tune",
        "validation_file",
    }
)  # fmt: skip
# A list of strings as Python writes it.
LABELS = re.compile(r"""labels=(\[(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|, )*\])""")
# All but tabs and ends of lines; also those that turn the direction of writing.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
QUOTED = re.compile(r"`([a-z_]+)`")


class CommandError(Exception):
    """What a user gave cannot be; the message is complete."""


def flag(name: str) -> str | None:
    """How an argument of the library is spelt on the command line; `None` for what is no flag."""
    return ARGUMENTS.get(name) or FLAGS.get(name) or ("--" + name.replace("_", "-") if name in NAMES else None)


def in_flags(message: str) -> str:
    """A message of the library as one line in the words of the command line.

    Example:

    ```python
    >>> in_flags("`max_length` must be at least 1, got 0.")
    '--max-length: must be at least 1, got 0.'
    ```
    """
    text = " ".join(message.split())
    for old, new in PHRASES:
        text = text.replace(old, new)
    first = QUOTED.match(text)
    if first and flag(first[1]):
        text = f"{flag(first[1])}: {text[first.end() :].lstrip(': ')}"
    text = LABELS.sub(lambda found: f"--labels {shlex.join(literal_eval(found[1]))}", text)
    return QUOTED.sub(lambda found: flag(found[1]) or found[0], text)


@contextmanager
def blaming(what: str, when: str = "") -> Iterator[None]:
    """A `ValueError` or `OSError` is the fault of one argument.

    Args:
        what (`str`): the argument as it is typed.
        when (`str`, *optional*): only messages that begin with this, which is taken off.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if not str(error).startswith(when):
            raise
        raise CommandError(f"{what}: {in_flags(str(error).removeprefix(when).strip())}") from error


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
        return in_flags(str(error) or type(error).__name__)
    return f"{type(error).__name__}: {in_flags(str(error))} ({TRACEBACK}=1 shows where.)"


def exit_code(error: Exception) -> int:
    """2 where the user can mend it by other arguments or data, else 1."""
    if isinstance(error, CommandError) or _is_usage(error):
        return WRONG
    return WRONG if isinstance(error, ValueError) else FAILED


def _is_usage(error: Exception) -> bool:
    # By its shape: which module the class is in depends on typer's version.
    return hasattr(error, "format_message")


def _usage_line(error: Exception) -> str:
    param, message = getattr(error, "param", None), " ".join(str(getattr(error, "message", "") or "").split())
    if param is None:
        return " ".join(error.format_message().split())
    name = param.opts[0] if param.opts[0].startswith("-") else param.name.upper()
    return f"{name}: {'must be given.' if 'Missing' in type(error).__name__ else message}"
