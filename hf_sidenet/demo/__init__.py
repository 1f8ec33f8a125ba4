# SPDX-License-Identifier: Apache-2.0
"""Demo page for a checkpoint: enter a text or a picture, move θ, and see which exit answers and what it saves."""

from .answering import Answer, Answering
from .dial import Dial, Position, read_dial
from .page import Page, build_demo, launch


__all__ = ["Answer", "Answering", "Dial", "Page", "Position", "build_demo", "launch", "read_dial"]
