# SPDX-License-Identifier: Apache-2.0
"""In which precision a model answers. θ is certified for one: rounding moves logits, and so who leaves."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers.utils import logging

from ..models.configuration_sidenet import SideNetConfig
from ..models.modeling_base import SideNetPreTrainedModel


logger = logging.get_logger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_of(served: Any) -> str:
    """The precision of what answers, as `"bfloat16"` or `"int8 (ONNX Runtime)"`.

    Args:
        served (`PreTrainedModel` or [`Stages`] or the like): its `precision`, where it has one, else its dtype.
    """
    return getattr(served, "precision", None) or str(served.dtype).removeprefix("torch.")


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of the dtypes that a checkpoint can be cast to.

    Raises:
        ValueError: `dtype` is none of `"float32"`, `"bfloat16"`, `"float16"`.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` must be one of {tuple(DTYPES)}, got {name!r}.")
    return DTYPES[name]


def cast_copy(model: SideNetPreTrainedModel, dtype: str | torch.dtype) -> SideNetPreTrainedModel:
    """A copy of a model in another precision; the model itself stays.

    It goes through a folder that is saved and loaded in that precision, since `model.to` would also round what
    loading keeps in float32, such as rotary frequencies: what is certified has to be what users will load.

    Args:
        model ([`SideNetPreTrainedModel`]): on one device.
        dtype (`str` or `torch.dtype`): `"float32"`, `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: `dtype` is none of these.
    """
    dtype = parse_dtype(dtype)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        attention = model.config._attn_implementation
        copy = type(model).from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    copy.config.name_or_path = model.config.name_or_path
    return copy.to(model.device).eval()


def check_precision(config: SideNetConfig, precision: str) -> None:
    """Warn, once, where θ was calibrated in another precision than the one that serves.

    The same number format in another runtime is no other precision here: its answers are the same up to the rounding
    that a batch of another shape brings too.

    Args:
        config ([`SideNetConfig`]): with θ; without evidence behind it nothing is said.
        precision (`str`): of what serves, of [`precision_of`].
    """
    calibrated = (config.calibration or {}).get("precision")
    if calibrated is None or _format(calibrated) == _format(precision):
        return
    exported = "(" in precision
    command = "DIRECTORY --checkpoint CHECKPOINT" if exported else f"DIRECTORY --dtype {precision}"
    logger.warning_once(
        f"θ was calibrated in {calibrated}, but {precision} is what serves: what was certified does not hold for it. "
        f"To certify θ in {_format(precision)}: hf-sidenet recalibrate {command} ..."
    )


def _format(precision: str) -> str:
    return precision.partition(" ")[0]
