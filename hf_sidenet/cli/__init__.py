# SPDX-License-Identifier: Apache-2.0
"""The command line: `hf-sidenet attach | evaluate | recalibrate | export | benchmark | push | info`."""

import sys
from collections.abc import Sequence

from ..optional import require
from .errors import FAILED, exit_code, report_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments (`Sequence[str]`, *optional*): defaults to the arguments of this process.

    Returns:
        `int`: 0 for success, 1 for a failure, 2 for invalid arguments or data, 3 for "do not attach".
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        require("typer", "attach")
        from .app import command

        # typer's own errors are boxes of several lines; ours are one line.
        done = command().main(arguments or ["--help"], prog_name="hf-sidenet", standalone_mode=False)
    except Exception as error:
        report_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return done if isinstance(done, int) else FAILED if done else 0
