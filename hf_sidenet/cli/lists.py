# SPDX-License-Identifier: Apache-2.0
"""Options that take several values after one flag, which click does not know."""

import re
from typing import Any

from typer.core import TyperCommand


LIST = "--labels"
NEGATIVE = re.compile(r"-[0-9.]+")


class WithLists(TyperCommand):
    """A command in which `--labels` takes all names up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring `--labels A B` to `--labels=A --labels=B`. A class may be called -1."""
        found, inside = [], False
        for arg in args:
            if arg == LIST:
                inside = True
            elif inside and (not arg.startswith("-") or NEGATIVE.fullmatch(arg)):
                found.append(f"{LIST}={arg}")
            else:
                inside = False
                found.append(arg)
        return super().parse_args(ctx, found)
