# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .methods import EAGER


@dataclass(frozen=True)
class Settings:
    """What is compared, in values for JSON, so that another process can make the same methods.

    Args:
        directory (`str`): checkpoint with SideNets.
        precisions (`Sequence[str]`): `"float32"`, `"bfloat16"`, `"float16"`.
        engines (`Sequence[str]`): `"eager"`, `"compiled"`, `"ONNX Runtime"`.
        also (`Sequence[str]`, *optional*):
            Checkpoints that were calibrated again in another precision and exported folders, which take the place of
            `directory` there; their precisions are compared too.
        onnx (`Mapping[str, Sequence[str]]`, *optional*): exported folder and file of the plain MainNet, by precision;
            of [`Catalog.with_onnx`].
        thresholds (`Sequence[float]`, *optional*): θ instead of the checkpoints' own.
        device (`str`, *optional*, defaults to `"cpu"`): where all run.
    """

    directory: str
    precisions: Sequence[str] = ("float32",)
    engines: Sequence[str] = (EAGER,)
    also: Sequence[str] = ()
    thresholds: Sequence[float] | None = None
    device: str = "cpu"
    onnx: Mapping[str, Sequence[str]] = field(default_factory=dict)
