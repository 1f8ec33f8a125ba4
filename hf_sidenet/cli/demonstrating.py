# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet demo`."""

from collections.abc import Sequence

from .errors import CommandError, blaming
from .exported import is_exported
from .outcome import Outcome


def demo_command(
    directory: str,
    *,
    examples: Sequence[str],
    is_pair: bool,
    labels: Sequence[str] | None,
    title: str | None,
    host: str,
    port: int | None,
) -> Outcome:
    """Serve a page for a checkpoint until Ctrl-C; see [`build_demo`]."""
    if is_exported(directory):
        raise CommandError(f"DIRECTORY: must be a checkpoint, got the folder {directory!r}, which was exported.")
    if is_pair and len(examples) % 2:
        raise CommandError(f"--example: must be given twice per pair, got {len(examples)}.")
    from ..demo import build_demo, launch

    given = list(zip(examples[::2], examples[1::2], strict=True)) if is_pair else examples
    with blaming("DIRECTORY", when="`model_name_or_path`"), blaming("DIRECTORY"):
        page = build_demo(directory, is_pair=is_pair, title=title, examples=given, labels=labels)
    address = launch(page, host=host, port=port)
    return Outcome({"checkpoint": directory, "address": address}, f"{address} was stopped.")
