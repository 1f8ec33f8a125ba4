# SPDX-License-Identifier: Apache-2.0
"""What exported folders must not hold: where they were made."""

import os
import tempfile
from pathlib import Path

import torch

import hf_sidenet


# The checkout, the folder of installed packages, temporary folders.
MACHINE = (
    str(Path(hf_sidenet.__file__).parents[1]),
    str(Path(torch.__file__).parents[1]),
    tempfile.gettempdir() + os.sep,
    "stack_trace",
)


def text_of(path):
    """The bytes of a file, those that are no ASCII taken out."""
    return path.read_bytes().decode("ascii", errors="ignore")
