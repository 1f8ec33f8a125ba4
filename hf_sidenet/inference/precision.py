# SPDX-License-Identifier: Apache-2.0
"""Precision in which a model answers. θ is certified for one precision: rounding changes logits, and thus exits."""

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
from ..models.transformers_private import attention_of


logger = logging.get_logger(__name__)

# Separates the quantization of the weights from the dtype of the rest.
QUANTIZED = "+"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_of(served: Any) -> str:
    """Return the precision of a model or chain, such as `"bfloat16"` or `"int8 (ONNX Runtime)"`.

    Args:
        served (`PreTrainedModel` or [`StageChain`]): its `precision` if it has one, else its dtype and how its
            weights are quantized: `"Int8WeightOnlyConfig+bfloat16 (torchao)"`.
    """
    own = getattr(served, "precision", None)
    if own is not None:
        return own
    dtype = str(served.dtype).removeprefix("torch.")
    quantized = quantization_of(served) if isinstance(served, nn.Module) else None
    return dtype if quantized is None else f"{quantized[0]}{QUANTIZED}{dtype} ({quantized[1]})"


def quantization_of(model: nn.Module) -> tuple[str, str] | None:
    """Return how a model's weights are quantized and by what, such as `("Int8WeightOnlyConfig", "torchao")`.

    `None` if they are not. Without a quantization config, the class of the weights or modules decides.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is not None:
        method = getattr(config.quant_method, "value", config.quant_method)
        chosen = getattr(config, "quant_type", method)
        return (chosen if isinstance(chosen, str) else type(chosen).__name__), method
    kinds = {type(parameter) for parameter in model.parameters() if _is_quantized(parameter)}
    names = {kind.__name__ for kind in kinds}
    makers = {kind.__module__.partition(".")[0] for kind in kinds}
    for module in model.modules():
        # Their weights are not parameters but packed in modules of their own.
        if type(module).__module__.startswith("torch.ao.nn.quantized.") and hasattr(module, "from_float"):
            names.add(module._get_name())
            makers.add("torch")
    return ("+".join(sorted(names)), ", ".join(sorted(makers))) if names else None


def _is_quantized(parameter: torch.Tensor) -> bool:
    # torch's own wrappers shard weights over ranks without changing their values.
    wrapped = hasattr(parameter, "__tensor_flatten__") and not type(parameter).__module__.startswith("torch.")
    return wrapped or not parameter.is_floating_point()


def refuse_quantized(model: nn.Module, purpose: str) -> None:
    """Reject a model with quantized weights.

    Args:
        model (`nn.Module`): the model.
        purpose (`str`): purpose of the model, for the message, such as `"an export"`.

    Raises:
        ValueError: it is quantized.
    """
    if quantization_of(model) is not None:
        raise ArgumentError(
            "model",
            f"must not be quantized for {purpose}, got {precision_of(model)}: pass the original model",
        )


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Parse a dtype that a checkpoint can be cast to.

    Raises:
        ValueError: `dtype` is not `"float32"`, `"bfloat16"` or `"float16"`.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError("dtype", f"must be one of {tuple(DTYPES)}", name)
    return DTYPES[name]


def cast_copy(model: SideNetPreTrainedModel, dtype: str | torch.dtype) -> SideNetPreTrainedModel:
    """Copy a model in another precision; the model itself is not changed.

    The copy is saved and reloaded, because `model.to` would also round what loading keeps in float32, such as rotary
    frequencies: the certified model must be the one that users load.

    Args:
        model ([`SideNetPreTrainedModel`]): a model on one device.
        dtype (`str` or `torch.dtype`): `"float32"`, `"bfloat16"` or `"float16"`.

    Raises:
        ValueError: `dtype` is another one, or the model is quantized.
    """
    dtype = parse_dtype(dtype)
    refuse_quantized(model, f"a copy in {dtype}")
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        attention = attention_of(model.config)
        copy = type(model).from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    copy.config.name_or_path = model.config.name_or_path
    on_device = copy.to(model.device)  # pyright: ignore[reportArgumentType]  the types of its wrapper lack `self`
    return on_device.eval()


def check_precision(config: SideNetConfig, precision: str) -> bool:
    """Return whether θ was calibrated in the precision that serves; warn once if not.

    The same number format in another runtime counts as the same precision: its answers agree up to rounding, as with
    another batch shape.

    Args:
        config ([`SideNetConfig`]): config with θ; without evidence behind θ there is no warning.
        precision (`str`): precision that serves, from [`precision_of`].
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
        f"θ was calibrated in {calibrated}, but the model runs in {precision}, which the certificate does not cover. "
        f"To certify θ in {number_format(precision)}: {command}"
    )
    return False


def number_format(precision: str) -> str:
    """Return a precision without its runtime: `"int8"` for `"int8 (ONNX Runtime)"`.

    Args:
        precision (`str`): precision from [`precision_of`].
    """
    return precision.partition(" ")[0]


def tell_lost_reference(before: dict[str, Any], reference: PreTrainedModel | None, precision: str) -> None:
    """Warn if θ was calibrated against a classifier in another precision than the current reference.

    Args:
        before (`dict[str, Any]`): the evidence so far.
        reference (`PreTrainedModel`, *optional*): the reference; by default the MainNet inside.
        precision (`str`): its precision.
    """
    last = before.get("reference_precision", precision)
    if reference is None and last != precision:
        logger.warning(
            "θ was calibrated against a classifier in %s; it is now compared with the MainNet inside, in %s. Pass the "
            "former as `reference` to keep it.",
            last,
            precision,
        )


def check_finite(records: ExitRecords, precision: str) -> None:
    """Reject a precision in which logits overflow.

    Args:
        records ([`ExitRecords`]): records of every exit.
        precision (`str`): their precision.

    Raises:
        ValueError: some logits are not finite.
    """
    broken = int((~records.exit_logits.isfinite()).any(-1).any(-1).sum())
    if broken:
        raise ValueError(
            f"every exit must return finite logits, but {broken} of {len(records)} rows have others in {precision}: "
            "the model does not work in this precision."
        )
