# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet push`."""

from dataclasses import asdict
from pathlib import Path

from .errors import WRONG, CommandError, report_error
from .outcome import Outcome
from .texts import push_text


def push_command(
    directory: str,
    repo: str | None,
    *,
    private: bool,
    token: str | None,
    revision: str | None,
    message: str | None,
    dry_run: bool,
) -> Outcome:
    """Look at a folder and push it; see [`check_shareable`] and [`push_checkpoint`]."""
    if repo is None and not dry_run:
        raise CommandError("REPO: must be given, or --dry-run.")
    if not Path(directory).is_dir():
        raise CommandError(f"DIRECTORY: must be a folder, got {directory!r}.")
    from ..hub import check_shareable
    from ..hub.push import check_repo_id, push_checkpoint

    if repo is not None:
        check_repo_id(repo)
    found = check_shareable(directory)
    pushed = None
    if not found.ok:
        count = len(found.errors)
        first = "" if count == 1 else f" The first of {count}:"
        report_error(CommandError(f"DIRECTORY: must load elsewhere, but does not.{first} {found.errors[0]}"))
    elif not dry_run:
        pushed = push_checkpoint(
            directory, repo, private=private or None, token=token, revision=revision, message=message
        )
    document = {
        **asdict(found),
        "repo": repo,
        "revision": revision,
        "dry_run": dry_run,
        "pushed": None if pushed is None else asdict(pushed),
    }
    return Outcome(document, push_text(document, found.text()), 0 if found.ok else WRONG)
