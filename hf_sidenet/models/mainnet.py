# SPDX-License-Identifier: Apache-2.0
"""Everything about the MainNet as a whole: loading it, its last layer, what of it learns."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig

from .gate import Blocks, Run, run_mainnet
from .sidenet import SideNet


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


# Arguments of `from_pretrained` that are not fields of the MainNet's config.
LOADING_ARGUMENTS = frozenset(
    {
        "adapter_kwargs", "adapter_name", "allow_all_kernels", "attn_implementation", "cache_dir", "code_revision",
        "config", "device_map", "device_mesh", "disable_mmap", "distributed_config", "dtype", "experts_implementation",
        "force_download", "fusion_config", "gguf_file", "ignore_mismatched_sizes", "kernel_config", "key_mapping",
        "local_files_only", "low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder", "proxies",
        "quantization_config", "revision", "state_dict", "subfolder", "token", "torch_dtype", "tp_plan", "tp_size",
        "trust_remote_code", "use_kernels", "use_safetensors", "variant", "weights_only",
    }
)  # fmt: skip
HUB_ARGUMENTS = frozenset(
    {
        "cache_dir", "code_revision", "force_download", "local_files_only", "proxies", "revision", "subfolder",
        "token", "trust_remote_code",
    }
)  # fmt: skip


def load_mainnet(auto_class: type, path: str, kwargs: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """Load a task model for its `from_pretrained` arguments.

    Returns:
        `(model, missing)`: the model, and the names of weights that the checkpoint does not have.

    Raises:
        ValueError: an argument is neither a loading argument nor a field of the MainNet's config.
    """
    fields = {name: value for name, value in kwargs.items() if name not in LOADING_ARGUMENTS}
    unknown = set(fields)
    if kwargs.get("config") is None:
        hub = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
        _, unused = AutoConfig.from_pretrained(path, **hub, **fields, return_unused_kwargs=True)
        unknown &= set(unused)
    if unknown:
        raise ValueError(
            f"from_mainnet got {sorted(unknown)}: neither fields of SideNetConfig, nor arguments of from_pretrained, "
            "nor (without `config`) fields of the MainNet's config."
        )
    # Pickle is read only where the caller says so, by use_safetensors=False.
    kwargs.setdefault("use_safetensors", True)
    model, info = auto_class.from_pretrained(path, **kwargs, output_loading_info=True)
    return model, set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}


def check_rebuilds(auto_class: type, mainnet: PreTrainedModel) -> None:
    """Refuse a MainNet that its checkpoint would not give back, and note its class where a config has several.

    Raises:
        ValueError: it is of another class than the Auto class builds, of remote code, or has adapters.
    """
    kind = type(mainnet)
    if has_adapters(mainnet):
        raise ValueError(
            f"a MainNet must have no adapters, which a checkpoint with SideNets cannot carry, got "
            f"{sorted(mainnet.peft_config)}: merge them first (peft: `merge_and_unload()`), or add them after the "
            "SideNets."
        )
    if type(mainnet.config) not in auto_class._model_mapping or kind.__module__.startswith("transformers_modules."):
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds from transformers' own code, because a "
            f"checkpoint carries no other; got {kind.__name__} of {kind.__module__.partition('.')[0]}."
        )
    built = auto_class._model_mapping[type(mainnet.config)]
    kinds = built if isinstance(built, tuple) else (built,)
    if kind not in kinds:
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds, which for "
            f"{mainnet.config.model_type!r} is {' or '.join(known.__name__ for known in kinds)}; got {kind.__name__}."
        )
    if len(kinds) > 1:
        # Else the checkpoint could not tell which of them it is (DeiT with and without teacher).
        mainnet.config.architectures = [kind.__name__]


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether peft has put adapters, such as LoRA, into this model."""
    return bool(getattr(model, "peft_config", None))


def share_quantization(giver: PreTrainedModel, taker: PreTrainedModel) -> None:
    """Let one model save weights that were quantised when the other was loaded."""
    quantizer = getattr(giver, "hf_quantizer", None)
    if quantizer is not None:
        # Not `is_quantized`: the Trainer would refuse to train new SideNets, which are not.
        taker.hf_quantizer = quantizer
        taker.config.quantization_config = giver.config.quantization_config


def set_learning(module: nn.Module, learns: bool) -> None:
    """Whether parameters get gradients, and whether BatchNorm statistics may be written, also by other functions than
    its own forward (`torch.optim.swa_utils.update_bn` begins by resetting them)."""
    module.requires_grad_(learns)
    for child in module.modules():
        # Without statistics of its own (they are None) it never tracks any.
        if isinstance(child, _BatchNorm) and child.running_mean is not None:
            child.track_running_stats = learns


def spare_sidenets(quantization_config: Any) -> Any:
    """How to quantise a model with SideNets: they stay as they are, unless the config lists what is to be spared.

    Args:
        quantization_config (`QuantizationConfigMixin` or `dict`, *optional*): of `from_pretrained`; it is not changed.
    """
    if quantization_config is None:
        return None
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    config = copy.deepcopy(quantization_config)
    for field in ("modules_to_not_convert", "llm_int8_skip_modules"):
        if getattr(config, field, ()) is None:
            setattr(config, field, ["sidenets"])
    return config


def last_layer(mainnet: PreTrainedModel) -> tuple[str, nn.Module]:
    """Name and module of the MainNet's last layer: its last linear map onto the labels, or the head put there.

    Raises:
        ValueError: there is none.
    """
    num_labels = mainnet.config.num_labels
    linear = [
        name
        for name, module in mainnet.named_modules()
        if num_labels == getattr(module, "out_features", getattr(module, "out_channels", None))
    ]
    if not linear:
        raise ValueError(
            f"{type(mainnet).__name__} must end in a linear layer with {num_labels} outputs, and has none."
        )
    parent = linear[-1].rpartition(".")[0]
    name = parent if isinstance(mainnet.get_submodule(parent), SideNet) else linear[-1]
    return name, mainnet.get_submodule(name)


def replace_head(mainnet: PreTrainedModel, hidden_size: int) -> None:
    """Put a head shaped like the SideNet in the place of the last layer, as in the paper's experiments, once.

    Raises:
        ValueError: the last layer is not an `nn.Linear`.
    """
    name, layer = last_layer(mainnet)
    if isinstance(layer, SideNet):
        return
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"`mainnet_head='mlp'` needs an nn.Linear at {name}, got {type(layer).__name__}.")
    head = SideNet(layer.in_features, hidden_size, layer.out_features)
    mainnet.set_submodule(name, head.to(layer.weight.device, layer.weight.dtype))


def check_learnable(mainnet: PreTrainedModel, random: set[str], freeze: str, path: str) -> None:
    """Refuse a frozen MainNet whose weights are partly random, since they would stay random.

    Args:
        mainnet (`PreTrainedModel`): the MainNet.
        random (`set[str]`): its parameters that do not come from the checkpoint.
        freeze (`str`): `"all"` or `"body"`.
        path (`str`): where the checkpoint came from.

    Raises:
        ValueError: a random parameter would not learn.
    """
    name, layer = last_layer(mainnet)
    trained = {f"{name}.{key}" for key in layer.state_dict()} if freeze == "body" else set()
    stuck = sorted(random - trained)
    if stuck:
        raise ValueError(
            f"{path!r} has no weights for {stuck}: they were initialised at random and a frozen MainNet would never "
            "learn them. Give a fine-tuned classifier, or train jointly with `freeze_mainnet='none'`."
        )
