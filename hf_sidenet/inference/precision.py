# SPDX-License-Identifier: Apache-2.0
"""In which precision a model answers. θ is certified for one: rounding moves logits, and so who leaves."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..measurement import ExitRecords
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel


logger = logging.get_logger(__name__)

# Between how weights are quantized and the dtype of the rest.
QUANTIZED = "+"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_of(served: Any) -> str:
    """The precision of what answers, as `"bfloat16"` or `"int8 (ONNX Runtime)"`.

    Args:
        served (`PreTrainedModel` or [`StageChain`]): its `precision`, where it has one, else its dtype, and
            how its weights are quantized: `"Int8WeightOnlyConfig+bfloat16 (torchao)"`.
    """
    own = getattr(served, "precision", None)
    if own is not None:
        return own
    dtype = str(served.dtype).removeprefix("torch.")
    quantized = quantization_of(served) if isinstance(served, nn.Module) else None
    return dtype if quantized is None else f"{quantized[0]}{QUANTIZED}{dtype} ({quantized[1]})"


def quantization_of(model: nn.Module) -> tuple[str, str] | None:
    """How the weights of a model are quantized, and by what, as `("Int8WeightOnlyConfig", "torchao")`; `None` of an
    ordinary model. Where no config tells, the class of the weights or of the modules does."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is not None:
        method = getattr(config.quant_method, "value", config.quant_method)
        chosen = getattr(config, "quant_type", method)
        return (chosen if isinstance(chosen, str) else type(chosen).__name__), method
    kinds = {type(parameter) for parameter in model.parameters() if _is_quantized(parameter)}
    names = {kind.__name__ for kind in kinds}
    makers = {kind.__module__.partition(".")[0] for kind in kinds}
    for module in model.modules():
        # Their weights are no parameters, but packed in a module of their own, which nothing is converted to.
        if type(module).__module__.startswith("torch.ao.nn.quantized.") and hasattr(module, "from_float"):
            names.add(module._get_name())
            makers.add("torch")
    return ("+".join(sorted(names)), ", ".join(sorted(makers))) if names else None


def _is_quantized(parameter: torch.Tensor) -> bool:
    # torch's own wrappers spread weights over ranks, and leave their numbers as they are.
    wrapped = hasattr(parameter, "__tensor_flatten__") and not type(parameter).__module__.startswith("torch.")
    return wrapped or not parameter.is_floating_point()


def refuse_quantized(model: nn.Module, purpose: str) -> None:
    """Refuse a model whose weights are quantized already.

    Args:
        model (`nn.Module`): that was given.
        purpose (`str`): what it was given for, as `"an export"`.

    Raises:
        ValueError: it is quantized.
    """
    if quantization_of(model) is not None:
        raise ArgumentError(
            "model",
            f"must not be quantized for {purpose}, got {precision_of(model)}: give the model that it was made from",
        )


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of the dtypes that a checkpoint can be cast to.

    Raises:
        ValueError: `dtype` is none of `"float32"`, `"bfloat16"`, `"float16"`.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError("dtype", f"must be one of {tuple(DTYPES)}", name)
    return DTYPES[name]


def cast_copy(model: SideNetPreTrainedModel, dtype: str | torch.dtype) -> SideNetPreTrainedModel:
    """A copy of a model in another precision; the model itself stays.

    It goes through a folder that is saved and loaded in that precision, since `model.to` would also round what
    loading keeps in float32, such as rotary frequencies: what is certified has to be what users will load.

    Args:
        model ([`SideNetPreTrainedModel`]): on one device.
        dtype (`str` or `torch.dtype`): `"float32"`, `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: `dtype` is none of these, or the model is quantized.
    """
    dtype = parse_dtype(dtype)
    refuse_quantized(model, f"a copy in {dtype}")
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        attention = model.config._attn_implementation
        copy = type(model).from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    copy.config.name_or_path = model.config.name_or_path
    on_device = copy.to(model.device)  # pyright: ignore[reportArgumentType]  the types of its wrapper lack `self`
    return on_device.eval()


def check_precision(config: SideNetConfig, precision: str) -> bool:
    """Whether θ was calibrated in the precision that serves; a warning says, once, where it was another.

    The same number format in another runtime is no other precision here: its answers are the same up to the rounding
    that a batch of another shape brings too.

    Args:
        config ([`SideNetConfig`]): with θ; without evidence behind it nothing is said.
        precision (`str`): of what serves, of [`precision_of`].
    """
    calibrated = (config.calibration or {}).get("precision")
    if calibrated is None or number_format(calibrated) == number_format(precision):
        return True
    if QUANTIZED in precision:
        command = "hf_sidenet.attaching.checkpoint.recalibrate(model, processor, rows, target=...)"
    elif "(" in precision:
        command = "hf-sidenet recalibrate DIRECTORY --checkpoint CHECKPOINT ..."
    else:
        command = f"hf-sidenet recalibrate DIRECTORY --dtype {precision} ..."
    logger.warning_once(
        f"θ was calibrated in {calibrated}, but {precision} is what serves: what was certified does not hold for it. "
        f"To certify θ in {number_format(precision)}: {command}"
    )
    return False


def number_format(precision: str) -> str:
    """What numbers are computed in, whatever the runtime: `"int8"` of `"int8 (ONNX Runtime)"`.

    Args:
        precision (`str`): of [`precision_of`].
    """
    return precision.partition(" ")[0]


def tell_lost_reference(before: dict[str, Any], reference: PreTrainedModel | None, precision: str) -> None:
    """Warn where θ was calibrated against a classifier in another precision than the one it is compared with now.

    Args:
        before (`dict[str, Any]`): the evidence so far.
        reference (`PreTrainedModel`, *optional*): that was given; by default the MainNet inside.
        precision (`str`): in which it answers.
    """
    last = before.get("reference_precision", precision)
    if reference is None and last != precision:
        logger.warning(
            "θ was calibrated against a classifier in %s; now it is compared with the MainNet inside, in %s. Give the "
            "former as `reference` to keep to it.",
            last,
            precision,
        )


def check_finite(records: ExitRecords, precision: str) -> None:
    """Refuse a precision in which some numbers overflow.

    Args:
        records ([`ExitRecords`]): what every exit said.
        precision (`str`): in which it did.

    Raises:
        ValueError: some logits are not finite.
    """
    broken = int((~records.exit_logits.isfinite()).any(-1).any(-1).sum())
    if broken:
        raise ValueError(
            f"every exit must answer with finite numbers, but {broken} of {len(records)} rows have others in "
            f"{precision}: this precision does not fit the model."
        )
