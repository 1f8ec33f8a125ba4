# SPDX-License-Identifier: Apache-2.0
"""How often the same rows have certified: to look again for a better θ on the same rows is multiple testing, so it is
counted.

Another look has other weights, or another target, confidence level, test, classifier to compare with or split of the
rows. The same in another precision or runtime is none: its certificate is about something else that serves, and nobody
picks the better of the two.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..measurement.files import replacing
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


def count_looks(directory: str | os.PathLike, rows: str, look: str) -> int:
    """Note a look, and say how many different ones these rows have seen on this machine.

    The same look again, as of a call that was killed and started again, counts once.

    Args:
        directory (`str` or `os.PathLike`): where the counts are kept; made where it does not exist.
        rows (`str`): fingerprint of the rows.
        look (`str`): of [`look_key`].
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rows}.json"
    seen = json.loads(path.read_text()) if path.exists() else []
    if look not in seen:
        seen.append(look)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(seen))
    return len(seen)


def level_of_all(count: int, confidence_level: float) -> float:
    """Probability with which all of several guarantees hold that were planned beforehand (Bonferroni).

    Args:
        count (`int`): how many.
        confidence_level (`float`): of each.
    """
    return max(0.0, 1 - count * (1 - confidence_level))
