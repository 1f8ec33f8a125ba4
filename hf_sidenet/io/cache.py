# SPDX-License-Identifier: Apache-2.0
"""The folder for what this package keeps between runs."""

from pathlib import Path

from huggingface_hub.constants import HF_HOME


def default_cache() -> Path:
    """Return the folder for features, the count of calibrations, and the routings that runners chose."""
    return Path(HF_HOME) / "hf_sidenet"
