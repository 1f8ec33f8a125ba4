# SPDX-License-Identifier: Apache-2.0
"""What a command found, printed for people or as JSON."""

import json
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CommandError, printable
from .quiet import quiet


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


def json_text(document: dict[str, Any]) -> str:
    """Strict JSON: null where a number is not finite."""
    return json.dumps(_strict(document), indent=2, ensure_ascii=False, allow_nan=False)


def refuse_source(output_dir: str, **sources: str | None) -> None:
    """Refuse a folder that holds what is being read: replacing it would take that away.

    Args:
        output_dir (`str`): the folder to write.
        sources (`str`, *optional*): paths by what they are called; Hub ids are no paths.

    Raises:
        CommandError: it is one of them, or has one in it.
    """
    output = Path(output_dir).resolve()
    for name, source in sources.items():
        if source is not None and Path(source).exists():
            path = Path(source).resolve()
            if output == path or output in path.parents:
                raise CommandError(f"--output-dir: must be another folder than that of {name}, got {output_dir!r}.")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
