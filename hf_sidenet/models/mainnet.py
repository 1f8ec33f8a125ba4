# SPDX-License-Identifier: Apache-2.0
"""The MainNet as a whole: finding its blocks, probing, loading, its last layer, and which parts of it train."""

import copy
import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.quantizers.auto import AutoQuantizationConfig

from .gate import Blocks, Run, install, is_gated, run_mainnet, sharing_weights
from .modalities import PROBE_LENGTHS, Modality
from .sidenet import SideNet
from .tasks import Task


# Block arguments with one row per example, besides the hidden states, and the minimum number of axes for that: with
# fewer, all examples share it (a rotary embedding `(sequence, width)`, MPT's bias `(heads, sequence, sequence)`).
PER_ROW = {
    "attention_mask": 2,
    "attn_mask": 2,
    "sliding_window_mask": 2,
    "mask": 2,
    "encoder_attention_mask": 2,
    "encoder_hidden_states": 3,
    "query_states": 3,
    "position_ids": 2,
    "position_embeddings": 3,
    "rope": 3,
    "position_bias": 4,
}
# Block arguments shared by all examples, regardless of axis 0.
SHARED = frozenset({"rel_embeddings", "relative_pos"})
# First entries of timm's `feature_info` that are the stem, not a stage.
TIMM_STEMS = frozenset(
    {
        "stem", "act1", "bn1", "conv1", "conv_stem", "layer0", "level0", "features.norm0", "features.conv1_1",
        "Conv2d_2b_3x3",
    }
)  # fmt: skip

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


@dataclass(frozen=True)
class ExitPoint:
    """Place where a SideNet can be attached.

    Args:
        exit_layer (`int`): number of blocks that run before it, as in `exit_layers`; 0 for the input.
        module (`str`): name of the last block that runs; at 0, the MainNet's input.
        shape (`tuple[int, ...]`): shape of x_c without the batch axis (and, for text, the sequence axis).
        params (`float`): fraction of the MainNet's parameters used so far, embeddings included.
        flops (`float`): fraction of the MainNet's FLOPs spent so far (for text, at the probe's length).
    """

    exit_layer: int
    module: str
    shape: tuple[int, ...]
    params: float
    flops: float


def find_blocks(mainnet: nn.Module, path: str | None = None) -> Blocks:
    """Find the list of blocks of a MainNet.

    Args:
        mainnet (`nn.Module`): a task model.
        path (`str`, *optional*): name of the `ModuleList` or `Sequential`, or its end (`"encoder.layer"`).

    Raises:
        ValueError: no list or several lists match; the message says how to name one.
    """
    if path is None and hasattr(mainnet, "timm_model"):
        return _timm_blocks(mainnet)
    containers = {
        name: module
        for name, module in mainnet.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) >= 2
    }
    if path is not None:
        found = [name for name in containers if name == path or name.endswith("." + path)]
        rule = f"`blocks={path!r}` must name exactly one ModuleList or Sequential with at least 2 modules"
    else:
        lists = [name for name, module in containers.items() if isinstance(module, nn.ModuleList)]
        found = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
        rule = (
            f"the blocks of {type(mainnet).__name__} must be one list of at least 2 modules that run once each, in "
            'order. If there is such a list, name it: `blocks="encoder.layer"`. A MainNet that reuses one layer '
            "(ALBERT) cannot be split"
        )
    if len(found) != 1:
        raise ValueError(f"{rule}; found {found or 'none'}, candidates are {list(containers) or 'none'}.")
    name, modules = found[0], list(containers[found[0]])
    return _blocks([f"{name}.{i}" for i in range(len(modules))], modules, gate_after=False)


def _blocks(names: list[str], modules: list[nn.Module], *, gate_after: bool) -> Blocks:
    return Blocks(names, modules, gate_after, per_row=PER_ROW, shared=SHARED)


def _timm_blocks(mainnet: nn.Module) -> Blocks:
    timm_model = mainnet.timm_model
    layout = getattr(timm_model, "output_fmt", "NCHW")
    if str(getattr(layout, "value", layout)) == "NHWC":
        raise ValueError(
            f"{type(timm_model).__name__} passes channels-last feature maps, but SideNets need channels first. Use "
            "transformers' Swin instead of timm's."
        )
    names = [info["module"] for info in getattr(timm_model, "feature_info", [])]
    if names and (names[0] in TIMM_STEMS or names[0].split(".")[0] in TIMM_STEMS):
        names = names[1:]
    if len(names) < 2 or "" in names:
        raise ValueError(
            f"{type(timm_model).__name__}: timm's `feature_info` must name at least 2 stages, got {names}. Name the "
            "list of blocks with `blocks=`."
        )
    names = [f"timm_model.{name}" for name in names]
    missing = sorted(set(names) - {name for name, _ in mainnet.named_modules()})
    if missing:
        raise ValueError(
            f"{type(timm_model).__name__}: timm's `feature_info` names {missing}, which are not among its modules. "
            "Name the list of blocks with `blocks=`."
        )
    return _blocks(names, [mainnet.get_submodule(name) for name in names], gate_after=True)


def gated(mainnet: PreTrainedModel, path: str | None) -> tuple[PreTrainedModel, Blocks]:
    """Return the MainNet with the gates of this package, and its blocks.

    If a checkpoint's own code is loaded, there are two copies of gate.py, and each sees only its own runs: a MainNet
    with the other's gates is copied, sharing every weight.

    Args:
        mainnet (`PreTrainedModel`): the MainNet of a model with SideNets.
        path (`str`, *optional*): see [`find_blocks`].
    """
    blocks = find_blocks(mainnet, path)
    if all(map(is_gated, blocks.modules)):
        return mainnet, blocks
    mainnet = sharing_weights(mainnet)
    blocks = find_blocks(mainnet, path)
    install(mainnet, blocks)
    return mainnet, blocks


def name_of(mainnet: PreTrainedModel) -> str:
    """Return a MainNet's class name, plus the architecture for timm models, which share one class."""
    architecture = getattr(mainnet.config, "architecture", None)
    kind = type(mainnet).__name__
    return f"{kind} ({architecture})" if isinstance(architecture, str) else kind


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode within the block, then restore the mode of every submodule."""
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
    """Count FLOPs, with attention as two matrix products, so that the device's kernel does not affect the count."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@torch.no_grad()
def probe(
    mainnet: PreTrainedModel,
    blocks: Blocks,
    task: Task,
    modality: Modality,
    input_size: list[int] | None,
    check_split: bool = True,
) -> list[torch.Tensor]:
    """Check that a MainNet can be split, and return the hidden states of three example rows between its blocks.

    Args:
        mainnet (`PreTrainedModel`): a task model whose blocks have the gates.
        blocks (`Blocks`): its blocks.
        task ([`Task`]): its task.
        modality ([`Modality`]): its modality.
        input_size (`list[int]`, *optional*): size from [`~Modality.input_size`].
        check_split (`bool`): also drop a row and compare the answers of the others; needs initialized weights.

    Raises:
        ValueError: the blocks do not run once each in order, a block changes its input in place, an argument's rows
            are unknown, or a row's answer changes when another row exits.
    """
    seen: list[tuple[int, torch.Tensor, int]] = []

    def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        seen.append((index, hidden, hidden._version))

    with evaluating(mainnet):
        inputs: dict[str, Any] = {**modality.example_inputs(mainnet, input_size)}
        if "use_cache" in inspect.signature(mainnet.forward).parameters:
            inputs["use_cache"] = False
        kinds = [type(module) for module in mainnet.modules()]
        run = Run(record)
        try:
            plain = run_mainnet(mainnet, run, **inputs, return_dict=True)
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{type(mainnet).__name__} cannot be checked: it fails on example rows ({error})."
            ) from error
        _check_logits(mainnet, task, getattr(plain, "logits", None))
        if [type(module) for module in mainnet.modules()] != kinds:
            raise ValueError(
                f"{type(mainnet).__name__} replaces its own modules on some inputs (BigBird on short texts; "
                "`attention_type='original_full'` avoids it), so its answers would depend on earlier inputs."
            )
        _check_blocks(blocks, run, seen)
        for index, hidden, _ in seen:
            modality.check_hidden(blocks.names[index], hidden)
        if check_split:
            # Later gates too: a MainNet may pass rows around only some of its blocks.
            for gate in sorted({1, len(blocks.modules) // 2, len(blocks.modules) - 1}):
                _check_split(mainnet, inputs, plain.logits, gate)
    return [hidden for _, hidden, _ in seen]


def _check_logits(mainnet: PreTrainedModel, task: Task, logits: Any) -> None:
    expected = (len(PROBE_LENGTHS), task.num_outputs(mainnet.config))
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else None
    if got != expected:
        raise ValueError(
            f"a MainNet must be a classifier with logits of shape (batch, num_labels), here {expected}; "
            f"{type(mainnet).__name__} returns {got}."
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"{name_of(mainnet)} cannot be checked: its logits are not finite on {len(PROBE_LENGTHS)} example rows. "
            "Its weights contain NaN, or it overflows in its precision."
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


def _check_split(mainnet: nn.Module, inputs: dict[str, Any], plain: torch.Tensor, gate: int) -> None:
    kept = torch.tensor([0, 2])

    def drop_the_middle_row(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        return kept.to(hidden.device) if index == gate else None

    try:
        split = run_mainnet(mainnet, Run(drop_the_middle_row), **inputs, return_dict=True)
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"{type(mainnet).__name__} cannot be split: it fails when a row exits ({error}).") from error
    if split.logits.shape != plain.shape:
        raise ValueError(
            f"{type(mainnet).__name__} cannot be split: its logits have shape {tuple(split.logits.shape)} after a row "
            f"exits, not {tuple(plain.shape)}, so its last block returns more than the hidden states."
        )
    kept = kept.to(plain.device)
    try:
        check_unchanged(split.logits[kept], plain[kept])
    except ValueError as error:
        raise ValueError(
            f"{type(mainnet).__name__} cannot be split: {error} when another row exits, so some block argument is "
            "not sliced correctly."
        ) from error


def check_unchanged(logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Reject logits that differ from the expected ones by more than rounding.

    Args:
        logits (`torch.Tensor` of shape `(rows, num_labels)`): logits computed another way.
        expected (`torch.Tensor` of shape `(rows, num_labels)`): logits of the MainNet or a SideNet. NaN and infinity
            must match.

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


def measure_exit_points(
    mainnet: nn.Module, blocks: Blocks, modality: Modality, inputs: dict[str, Any]
) -> list[ExitPoint]:
    """Measure the share of parameters and FLOPs that each prefix of the MainNet uses on the given inputs.

    A parameter counts as used if the gradient of x_c reaches it.
    """
    params = detached_parameters(mainnet)
    total_params = sum(p.numel() for p in params.values())
    points: list[tuple[int, torch.Tensor, int]] = []

    def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        points.append((index, hidden, counter.get_total_flops()))

    with evaluating(mainnet), torch.inference_mode(False), torch.enable_grad(), counting_flops() as counter:
        run_mainnet(partial(_call_with, mainnet, params), Run(record), **inputs, return_dict=True)
    total_flops = counter.get_total_flops()
    name = modality.main_input(inputs) or modality.main_inputs[0]
    measured = [ExitPoint(0, name, tuple(modality.block_shape(inputs[name])), 0.0, 0.0)]
    for index, hidden, flops in points:
        used = used_parameters(hidden, params)
        measured.append(
            ExitPoint(
                exit_layer=index,
                module=blocks.names[index - 1],
                shape=tuple(modality.block_shape(hidden)),
                params=used / total_params,
                flops=flops / total_flops,
            )
        )
    return measured


def detached_parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's parameters as new leaves sharing their values, which gradients reach even if it is frozen."""
    return {name: p.detach().requires_grad_() for name, p in module.named_parameters() if p.is_floating_point()}


def used_parameters(output: torch.Tensor, params: dict[str, torch.Tensor]) -> int:
    """Count the parameters that the gradient of `output` reaches."""
    tensors = list(params.values())
    gradients = torch.autograd.grad(output.float().sum(), tensors, retain_graph=True, allow_unused=True)
    return sum(p.numel() for p, gradient in zip(tensors, gradients, strict=True) if gradient is not None)


def _call_with(module: nn.Module, params: dict[str, torch.Tensor], **inputs: Any) -> Any:
    return torch.func.functional_call(module, params, kwargs=inputs)


def load_mainnet(
    auto_class: type[_BaseAutoModelClass], path: str | os.PathLike, kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """Load a task model with `from_pretrained` arguments.

    Returns:
        `(model, missing)`: the model, and the names of weights missing from the checkpoint.

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
    # Pickle is read only if the caller passes use_safetensors=False.
    kwargs.setdefault("use_safetensors", True)
    model, info = auto_class.from_pretrained(path, **kwargs, output_loading_info=True)
    return model, set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}


def check_rebuilds(auto_class: type[_BaseAutoModelClass], mainnet: PreTrainedModel) -> None:
    """Reject a MainNet that could not be rebuilt from a checkpoint; record its class if its config has several.

    Raises:
        ValueError: the Auto class builds another class, the MainNet has remote code, or it has adapters.
    """
    kind = type(mainnet)
    if has_adapters(mainnet):
        raise ValueError(
            f"a MainNet must not have adapters, which a checkpoint with SideNets cannot store, got "
            f"{sorted(mainnet.peft_config)}: merge them first (peft: `merge_and_unload()`), or add them after the "
            "SideNets."
        )
    known_kinds = cast("Mapping[type, Any]", auto_class._model_mapping)
    if type(mainnet.config) not in known_kinds or kind.__module__.startswith("transformers_modules."):
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds from transformers' own code, because a "
            f"checkpoint stores no other code; got {kind.__name__} from {kind.__module__.partition('.')[0]}."
        )
    built = known_kinds[type(mainnet.config)]
    kinds = built if isinstance(built, tuple) else (built,)
    if kind not in kinds:
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds, which for "
            f"{mainnet.config.model_type!r} is {' or '.join(known.__name__ for known in kinds)}; got {kind.__name__}."
        )
    if len(kinds) > 1:
        # Otherwise a checkpoint would not say which of them it is (DeiT with and without teacher).
        mainnet.config.architectures = [kind.__name__]


def has_adapters(model: PreTrainedModel) -> bool:
    """Return whether the model has peft adapters, such as LoRA."""
    return bool(getattr(model, "peft_config", None))


def share_quantization(giver: PreTrainedModel, taker: PreTrainedModel) -> None:
    """Let `taker` save weights that were quantized when `giver` was loaded."""
    quantizer = getattr(giver, "hf_quantizer", None)
    if quantizer is not None:
        # Not `is_quantized`: the Trainer would refuse to train new SideNets, which are not quantized.
        taker.hf_quantizer = quantizer
        taker.config.quantization_config = giver.config.quantization_config


def set_learning(module: nn.Module, learns: bool) -> None:
    """Set whether parameters get gradients and whether BatchNorm statistics may change.

    The latter also stops other functions: `torch.optim.swa_utils.update_bn` begins by resetting the statistics.
    """
    module.requires_grad_(learns)
    for child in module.modules():
        # BatchNorm without statistics (None) never tracks any.
        if isinstance(child, _BatchNorm) and child.running_mean is not None:
            child.track_running_stats = learns


def spare_sidenets(quantization_config: Any) -> Any:
    """Return a quantization config that skips the SideNets, unless the given one lists modules to skip.

    Args:
        quantization_config (`QuantizationConfigMixin` or `dict`, *optional*): as in `from_pretrained`; not changed.
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


def last_layer(mainnet: PreTrainedModel, task: Task) -> tuple[str, nn.Module]:
    """Return name and module of the MainNet's last layer: its last linear layer onto the labels, or its new head.

    Raises:
        ValueError: there is none.
    """
    num_outputs = task.num_outputs(mainnet.config)
    linear = [
        name
        for name, module in mainnet.named_modules()
        if num_outputs == getattr(module, "out_features", getattr(module, "out_channels", None))
    ]
    if not linear:
        raise ValueError(
            f"{type(mainnet).__name__} must end in a linear layer with {num_outputs} outputs, but has none."
        )
    parent = linear[-1].rpartition(".")[0]
    name = parent if isinstance(mainnet.get_submodule(parent), SideNet) else linear[-1]
    return name, mainnet.get_submodule(name)


def replace_head(mainnet: PreTrainedModel, task: Task, hidden_size: int) -> None:
    """Replace the last layer by a head shaped like the SideNet, as in the paper; does nothing if already replaced.

    Raises:
        ValueError: the last layer is not an `nn.Linear`.
    """
    name, layer = last_layer(mainnet, task)
    if isinstance(layer, SideNet):
        return
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"`mainnet_head='mlp'` needs an nn.Linear at {name}, got {type(layer).__name__}.")
    head = SideNet(layer.in_features, hidden_size, layer.out_features)
    mainnet.set_submodule(name, head.to(layer.weight.device, layer.weight.dtype))


def check_learnable(
    mainnet: PreTrainedModel, task: Task, random: set[str], freeze: str, path: str | os.PathLike
) -> None:
    """Reject a frozen MainNet with random weights, because they would stay random.

    Args:
        mainnet (`PreTrainedModel`): the MainNet.
        task ([`Task`]): its task.
        random (`set[str]`): its parameters that are not from the checkpoint.
        freeze (`str`): `"all"` or `"body"`.
        path (`str`): path of the checkpoint.

    Raises:
        ValueError: a random parameter would not train.
    """
    name, layer = last_layer(mainnet, task)
    trained = {f"{name}.{key}" for key in layer.state_dict()} if freeze == "body" else set()
    stuck = sorted(random - trained)
    if stuck:
        raise ValueError(
            f"{path!r} has no weights for {stuck}: they are randomly initialized, and a frozen MainNet would never "
            "train them. Pass a fine-tuned classifier, or train jointly with `freeze_mainnet='none'`."
        )
