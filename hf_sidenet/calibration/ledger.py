# SPDX-License-Identifier: Apache-2.0
"""How often the same rows have certified: again and again on the same rows is multiple testing, so it is counted."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..measurement.files import replacing


def count_calibration(directory: str | os.PathLike, rows: str, settings: Mapping[str, Any]) -> int:
    """Note a calibration, and say how many different ones these rows have seen on this machine.

    The same settings again are the same calibration: a call that was killed and started again counts once.

    Args:
        directory (`str` or `os.PathLike`): where the counts are kept; made where it does not exist.
        rows (`str`): fingerprint of the rows.
        settings (`Mapping[str, Any]`): all that may change the outcome; JSON.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rows}.json"
    key = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    seen = json.loads(path.read_text()) if path.exists() else []
    if key not in seen:
        seen.append(key)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(seen))
    return len(seen)
