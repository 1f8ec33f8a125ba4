# SPDX-License-Identifier: Apache-2.0
"""Count how often the same rows have certified: searching again for a better θ on the same rows is multiple testing.

A look differs from another in weights, target, confidence level, test, reference classifier, rows or their split. The
same look in another precision or runtime does not count again: it certifies a different deployment, and nobody picks
the better of the two.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..io.files import replacing
from ..io.locks import folder_lock
from ..models.errors import ArgumentError
from .repeats import find_repeats
from .targets import Target


def look_key(
    *,
    weights: str,
    targets: Sequence[Target],
    confidence_level: float,
    test: str,
    reference: str | None,
    split: tuple[int, float],
    chain: Sequence[Sequence[float]] | None = None,
) -> str:
    """Return a key that identifies one look.

    Args:
        weights (`str`): fingerprint of MainNet and SideNets, before any cast.
        targets (`Sequence[Target]`): the targets.
        confidence_level (`float`): confidence level of the guarantee.
        test (`str`): test of `accuracy_drop`.
        reference (`str`, *optional*): fingerprint of the reference classifier; `None` for the MainNet inside.
        split (`tuple[int, float]`): seed and share of the certification rows.
        chain (`Sequence[Sequence[float]]`, *optional*): `SideNetConfig.chain`.
    """
    settings: list[Any] = [weights, [str(target) for target in targets], confidence_level, test, reference, *split]
    if chain is not None:
        # Otherwise the key is that of versions before there was one.
        settings.append(chain)
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()


def count_looks(directory: str | os.PathLike, rows: Sequence[str], look: str) -> int:
    """Record a look, and return how many different looks these rows have had on this machine.

    A repeated look, such as after a restart, counts once. Rows are identified by their contents, in any order; looks
    at other rows count too if they overlap with these more than fresh rows would.

    Args:
        directory (`str` or `os.PathLike`): folder of the records; created if missing.
        rows (`Sequence[str]`): hashes of the certification rows' contents.
        look (`str`): key from [`look_key`].

    Raises:
        ValueError: the records are damaged.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # Half a hash is enough to recognize rows.
    rows = sorted(row[:16] for row in rows)
    name = hashlib.blake2b("".join(rows).encode(), digest_size=16).hexdigest()
    with folder_lock(folder):
        noted = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
        own = noted.setdefault(name, {"rows": rows, "looks": []})
        if look not in own["looks"]:
            own["looks"].append(look)
            with replacing(folder / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(own))
    return sum(len(each["looks"]) for each in noted.values() if each is own or _are_shared(each["rows"], rows))


def _are_shared(some: list[str], others: list[str]) -> bool:
    return find_repeats(some, others).too_many or find_repeats(others, some).too_many


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_text())
        if set(found) == {"rows", "looks"} and all(isinstance(each, list) for each in found.values()):
            return found
        what = "it has other fields"
    except (ValueError, TypeError) as error:
        what = str(error)
    raise ArgumentError(
        str(path),
        f"must record how often rows have certified, but is damaged: {what}. Move it away to "
        "continue; its counts are then lost",
    )


def level_of_all(count: int, confidence_level: float) -> float:
    """Return the probability with which several guarantees planned beforehand all hold (Bonferroni).

    Args:
        count (`int`): number of guarantees.
        confidence_level (`float`): confidence level of each.
    """
    return max(0.0, 1 - count * (1 - confidence_level))
