# SPDX-License-Identifier: Apache-2.0
"""Look at a MainNet once, before a SideNet is attached: what do its blocks pass on, and does dropping rows work?"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from .gate import Blocks, Run, run_mainnet


# Three rows of different lengths: no other axis of a usual model is 3, and every mask row differs.
PROBE_LENGTHS = (8, 6, 5)
DEFAULT_IMAGE_SIZE = 224
# Of MainNets that name no vocabulary because they read characters.
DEFAULT_VOCABULARY = 100


@dataclass(frozen=True)
class ExitPoint:
    """A place where a SideNet can be attached.

    Args:
        exit_layer (`int`): number of blocks that run before it; what `exit_layers` takes.
        module (`str`): name of the last block that runs.
        shape (`tuple[int, ...]`): x_c without the batch axis; for text without the sequence axis too.
        params (`float`): fraction of the MainNet's parameters used so far, its embeddings included.
        flops (`float`): fraction of the MainNet's FLOPs spent so far; for texts of the probe's length.
    """

    exit_layer: int
    module: str
    shape: tuple[int, ...]
    params: float
    flops: float


def input_size_of(config: PretrainedConfig) -> list[int]:
    """`[channels, height, width]` that a MainNet for images was made for, 224 px where it does not say."""
    pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
    # What timm's models are built with, whatever their weights were made for.
    channels = (getattr(config, "model_args", None) or {}).get("in_chans")
    if "input_size" in pretrained_cfg:
        size = list(pretrained_cfg["input_size"])
        return [channels or size[0], *size[1:]]
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or DEFAULT_IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return [channels or getattr(config, "num_channels", 3), height, width]


def example_inputs(mainnet: nn.Module, input_size: list[int] | None) -> dict[str, torch.Tensor]:
    """Three example rows: noise images of `input_size`, or texts of three lengths when it is `None`."""
    generator = torch.Generator().manual_seed(0)
    batch = len(PROBE_LENGTHS)
    if input_size is not None:
        pixels = torch.randn(batch, *input_size, generator=generator)
        return {"pixel_values": pixels.to(mainnet.device, mainnet.dtype)}
    vocabulary = getattr(mainnet.config, "vocab_size", DEFAULT_VOCABULARY)
    input_ids = torch.randint(3, vocabulary, (batch, max(PROBE_LENGTHS)), generator=generator)
    lengths = torch.tensor(PROBE_LENGTHS).unsqueeze(1)
    attention_mask = (torch.arange(max(PROBE_LENGTHS)) < lengths).long()
    pad = getattr(mainnet.config, "pad_token_id", None) or 0
    input_ids = input_ids.where(attention_mask.bool(), torch.tensor(pad))
    return {"input_ids": input_ids.to(mainnet.device), "attention_mask": attention_mask.to(mainnet.device)}


def name_of(mainnet: nn.Module) -> str:
    """The class of a MainNet; of timm's, which are all wrapped in one class, the architecture too."""
    architecture = getattr(mainnet.config, "architecture", None)
    kind = type(mainnet).__name__
    return f"{kind} ({architecture})" if isinstance(architecture, str) else kind


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has its own former mode again."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count FLOPs. As two matrix products, attention counts the same whatever kernel the device would choose."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@torch.no_grad()
def probe(
    mainnet: nn.Module, blocks: Blocks, input_size: list[int] | None, check_split: bool = True
) -> list[torch.Tensor]:
    """Hidden states of the three example rows between the blocks, after checking that the split works.

    Args:
        mainnet (`nn.Module`): a task model whose blocks carry the gates.
        blocks (`Blocks`): its blocks.
        input_size (`list[int]`, *optional*): `[channels, height, width]` for images, `None` for text.
        check_split (`bool`): also drop a row and compare the answers of the others; needs initialised weights.

    Raises:
        ValueError: the blocks do not run once each in order, a block changes its input in place, an argument's rows
            are unknown, or a row's answer changes when another row leaves.
    """
    seen: list[tuple[int, torch.Tensor, int]] = []

    def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        seen.append((index, hidden, hidden._version))

    with evaluating(mainnet):
        inputs = example_inputs(mainnet, input_size)
        if "use_cache" in inspect.signature(mainnet.forward).parameters:
            inputs["use_cache"] = False
        kinds = [type(module) for module in mainnet.modules()]
        run = Run(record)
        try:
            plain = run_mainnet(mainnet, run, **inputs, return_dict=True)
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{type(mainnet).__name__} cannot be checked: it fails on three example rows ({error})."
            ) from error
        _check_logits(mainnet, getattr(plain, "logits", None))
        if [type(module) for module in mainnet.modules()] != kinds:
            raise ValueError(
                f"{type(mainnet).__name__} replaces its own modules when it meets some inputs (BigBird: short texts; "
                "`attention_type='original_full'` keeps them), so its answers would depend on what it has seen."
            )
        _check_blocks(blocks, run, seen)
        if input_size is None:
            _check_tokens(blocks, seen)
        else:
            _check_maps(blocks, seen)
        if check_split:
            # Later gates too: a MainNet may carry rows past some blocks only.
            for gate in sorted({1, len(blocks.modules) // 2, len(blocks.modules) - 1}):
                _check_split(mainnet, inputs, plain.logits, gate)
    return [hidden for _, hidden, _ in seen]


def _check_logits(mainnet: nn.Module, logits: torch.Tensor | None) -> None:
    expected = (len(PROBE_LENGTHS), mainnet.config.num_labels)
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else None
    if got != expected:
        raise ValueError(
            f"a MainNet must be a classifier with logits of shape (batch, num_labels), here {expected}; "
            f"{type(mainnet).__name__} gives {got}."
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"{name_of(mainnet)} cannot be checked: its logits are not finite on {len(PROBE_LENGTHS)} example rows. "
            "Its weights hold NaN, or overflow in its precision."
        )


def _check_blocks(blocks: Blocks, run: Run, seen: list[tuple[int, torch.Tensor, int]]) -> None:
    order = [index for index, _, _ in seen]
    if order != list(range(1, len(blocks.modules))) or not run.finished:
        raise ValueError(
            f"the blocks must run once each, in order, but {blocks.names} ran as {order}. Name another list with "
            "`blocks=`."
        )
    for index, hidden, version in seen:
        if hidden.shape[0] != len(PROBE_LENGTHS):
            raise ValueError(
                f"blocks must have the batch on axis 0, but {blocks.names[index]} gets {tuple(hidden.shape)} for "
                f"{len(PROBE_LENGTHS)} rows."
            )
        if hidden._version != version:
            raise ValueError(f"block {blocks.names[index]} must not change its input in place, but it does.")


def _check_tokens(blocks: Blocks, seen: list[tuple[int, torch.Tensor, int]]) -> None:
    for index, hidden, _ in seen:
        if hidden.dim() != 3 or hidden.shape[1] != max(PROBE_LENGTHS):
            raise ValueError(
                f"blocks must pass one vector per token, but {blocks.names[index]} gets {tuple(hidden.shape)} for "
                f"{len(PROBE_LENGTHS)} texts of {max(PROBE_LENGTHS)} tokens, so the attention mask does not fit."
            )


def _check_maps(blocks: Blocks, seen: list[tuple[int, torch.Tensor, int]]) -> None:
    for index, hidden, _ in seen:
        # Square images give square maps.
        if hidden.dim() == 4 and hidden.shape[1] == hidden.shape[2] != hidden.shape[3]:
            raise ValueError(
                "feature maps must have the channels first, but those between the blocks, at "
                f"{blocks.names[index]}, are {tuple(hidden.shape)}."
            )


def _check_split(mainnet: nn.Module, inputs: dict[str, torch.Tensor], plain: torch.Tensor, gate: int) -> None:
    kept = torch.tensor([0, 2])

    def drop_the_middle_row(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        return kept.to(hidden.device) if index == gate else None

    try:
        split = run_mainnet(mainnet, Run(drop_the_middle_row), **inputs, return_dict=True)
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"{type(mainnet).__name__} cannot be split: it fails when a row leaves ({error}).") from error
    if split.logits.shape != plain.shape:
        raise ValueError(
            f"{type(mainnet).__name__} cannot be split: its logits have shape {tuple(split.logits.shape)} after a row "
            f"left, not {tuple(plain.shape)}, so more than the hidden states leaves its last block."
        )
    kept = kept.to(plain.device)
    try:
        check_unchanged(split.logits[kept], plain[kept])
    except ValueError as error:
        raise ValueError(
            f"{type(mainnet).__name__} cannot be split: {error} when another row leaves, so some argument of its "
            "blocks is not cut as it must be."
        ) from error


def check_unchanged(logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse logits that differ from those expected by more than rounding.

    Args:
        logits (`torch.Tensor` of shape `(rows, num_labels)`): found another way.
        expected (`torch.Tensor` of shape `(rows, num_labels)`): of the MainNet or a SideNet. NaN and infinity are
            expected where they are.

    Raises:
        ValueError: they differ, also in shape.
    """
    if logits.shape != expected.shape:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, not {tuple(expected.shape)},")
    same = (logits == expected) | (logits.isnan() & expected.isnan())
    difference = (logits - expected).masked_fill(same, 0).abs().max()
    scale = expected.nan_to_num(0, 0, 0).abs().max()
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    if not difference <= tolerance * scale:
        raise ValueError(f"answers change by {difference:.2g} (of {scale:.2g})")


def measure_exit_points(mainnet: nn.Module, blocks: Blocks, inputs: dict[str, Any]) -> list[ExitPoint]:
    """Share of parameters and FLOPs that each prefix of the MainNet uses, on the given inputs.

    A parameter counts as used when the gradient of x_c reaches it.
    """
    params = detached_parameters(mainnet)
    total_params = sum(p.numel() for p in params.values())
    points: list[tuple[int, torch.Tensor, int]] = []

    def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        points.append((index, hidden, counter.get_total_flops()))

    with evaluating(mainnet), torch.inference_mode(False), torch.enable_grad(), counting_flops() as counter:
        run_mainnet(partial(_call_with, mainnet, params), Run(record), **inputs, return_dict=True)
    total_flops = counter.get_total_flops()
    measured = []
    for index, hidden, flops in points:
        used = used_parameters(hidden, params)
        measured.append(
            ExitPoint(
                exit_layer=index,
                module=blocks.names[index - 1],
                shape=tuple(block_shape(hidden, is_text="pixel_values" not in inputs)),
                params=used / total_params,
                flops=flops / total_flops,
            )
        )
    return measured


def detached_parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a module, their values shared, as leaves that a gradient can reach even where it is frozen."""
    return {name: p.detach().requires_grad_() for name, p in module.named_parameters() if p.is_floating_point()}


def used_parameters(output: torch.Tensor, params: dict[str, torch.Tensor]) -> int:
    """Number of parameters that the gradient of `output` reaches."""
    tensors = list(params.values())
    gradients = torch.autograd.grad(output.float().sum(), tensors, retain_graph=True, allow_unused=True)
    return sum(p.numel() for p, gradient in zip(tensors, gradients, strict=True) if gradient is not None)


def block_shape(hidden: torch.Tensor, is_text: bool) -> list[int]:
    """Shape of x_c without the batch axis; for text without the sequence axis too."""
    return list(hidden.shape[2:] if is_text else hidden.shape[1:])


def _call_with(module: nn.Module, params: dict[str, torch.Tensor], **inputs: Any) -> Any:
    return torch.func.functional_call(module, params, kwargs=inputs)
