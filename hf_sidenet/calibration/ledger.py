# SPDX-License-Identifier: Apache-2.0
"""How often the same rows have certified: to look again for a better θ on the same rows is multiple testing, so it is
counted.

Another look has some other rows, or other weights, another target, confidence level, test, classifier to compare with
or split of the rows. The same in another precision or runtime is none: its certificate is about something else that
serves, and nobody picks the better of the two.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

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
) -> str:
    """What stands for one look.

    Args:
        weights (`str`): fingerprint of MainNet and SideNets, of a cast that of what it was cast from.
        targets (`Sequence[Target]`): what was asked for.
        confidence_level (`float`): of the guarantee.
        test (`str`): of `accuracy_drop`.
        reference (`str`, *optional*): fingerprint of the classifier to compare with; `None` for the MainNet inside.
        split (`tuple[int, float]`): seed and share of the rows that certify.
    """
    settings = [weights, [str(target) for target in targets], confidence_level, test, reference, *split]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()


def count_looks(directory: str | os.PathLike, rows: Sequence[str], look: str) -> int:
    """Note a look, and say how many different ones these rows have seen on this machine.

    The same look again, as of a call that was killed and started again, counts once. Rows are known by what they say,
    in whatever order: what other rows saw counts too where they share more with these than fresh rows would.

    Args:
        directory (`str` or `os.PathLike`): where looks are noted; made where it does not exist.
        rows (`Sequence[str]`): what each row that certifies says, in hashes.
        look (`str`): of [`look_key`].

    Raises:
        ValueError: what was noted is damaged.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # Half of a hash is enough to know rows again.
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
        f"must hold how often rows have certified, but is damaged: {what}. Move it away to go "
        "on; what it counted is then not counted any more",
    )


def level_of_all(count: int, confidence_level: float) -> float:
    """Probability with which all of several guarantees hold that were planned beforehand (Bonferroni).

    Args:
        count (`int`): how many.
        confidence_level (`float`): of each.
    """
    return max(0.0, 1 - count * (1 - confidence_level))
