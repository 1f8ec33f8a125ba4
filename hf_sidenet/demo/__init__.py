# SPDX-License-Identifier: Apache-2.0
"""A page to play with a checkpoint: type a sentence or drop a picture, move θ, see who answers and what is saved."""

from .answering import Answer, Answering
from .dial import Dial, Position, read_dial
from .page import Page, build_demo, launch


__all__ = ["Answer", "Answering", "Dial", "Page", "Position", "build_demo", "launch", "read_dial"]
