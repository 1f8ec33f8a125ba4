# SPDX-License-Identifier: Apache-2.0
"""The MainNet as a whole: finding its blocks, probing, loading, its last layer, and which parts of it train."""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from .blocks import counting_flops
from .gate import Run, hooked_segments, install, is_gated, remove_gates, run_mainnet, sharing_weights
from .layout import Layout
from .mainnet_code import new_mainnet
from .modalities import PROBE_LENGTHS, PROBE_MORE_ROWS, Modality
from .observe import observe
from .row_inputs import arguments_of
from .sidenet import SideNet
from .tasks import Task
from .transformers_private import AutoClass, known_classes
from .wrapped_network import check_same_weights, is_network


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
        shared_flops (`float`): fraction spent later, but once per call for all rows together, as DeBERTa projects its
            relative positions: it is saved only when no row of a call remains.
    """

    exit_layer: int
    module: str
    shape: tuple[int, ...]
    params: float
    flops: float
    shared_flops: float = 0.0


def gated(mainnet: PreTrainedModel, layout: Layout) -> PreTrainedModel:
    """Return the MainNet with the gates of this package.

    If a checkpoint's own code is loaded, there are two copies of gate.py, and each sees only its own runs: a MainNet
    with the other's gates is copied, sharing every weight.

    Args:
        mainnet (`PreTrainedModel`): the MainNet of a model with SideNets.
        layout ([`Layout`]): where it is split.
    """
    if all(is_gated(mainnet.get_submodule(name)) for name in hooked_segments(layout)):
        return mainnet
    mainnet = sharing_weights(mainnet)
    remove_gates(mainnet)
    install(mainnet, layout)
    return mainnet


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


def example_inputs(
    mainnet: PreTrainedModel,
    modality: Modality,
    input_size: list[int] | None,
    lengths: Sequence[int] = PROBE_LENGTHS,
) -> dict[str, Any]:
    """Return example rows as arguments of the MainNet; see [`Modality.example_inputs`]."""
    inputs: dict[str, Any] = modality.example_inputs(mainnet, input_size, lengths)
    if "use_cache" in arguments_of(mainnet):
        # A decoder's cache would keep rows that exit, and a classifier never reads it.
        inputs["use_cache"] = False
    return inputs


@torch.no_grad()
def observe_mainnet(
    mainnet: PreTrainedModel, task: Task, modality: Modality, input_size: list[int] | None, path: str | None
) -> Layout:
    """Watch a MainNet answer example rows; see [`observe`].

    Args:
        mainnet (`PreTrainedModel`): a task model.
        task ([`Task`]): its task.
        modality ([`Modality`]): its modality.
        input_size (`list[int]`, *optional*): size from [`~Modality.input_size`].
        path (`str`, *optional*): name of the list of blocks.

    Raises:
        ValueError: it cannot be split, or is no classifier.
    """

    def optional(lengths: Sequence[int], vectors: int | None) -> dict[str, Any] | None:
        return _with_optional(mainnet, example_inputs(mainnet, modality, input_size, lengths), vectors)

    # A copy, because some MainNets remember what they met.
    twin = sharing_weights(mainnet).eval()
    before = _traits(twin)
    layout = observe(
        twin,
        lambda lengths: example_inputs(mainnet, modality, input_size, lengths),
        path,
        has_tokens=modality.has_tokens,
        check_logits=partial(_check_logits, mainnet, task),
        with_optional=optional,
    )
    changed = _first_difference(before, _traits(twin))
    if changed is not None:
        raise ValueError(
            f"{name_of(mainnet)} changes itself on some inputs ({changed}), so its answers would depend on earlier "
            "ones. BigBird does so on short texts; `attention_type='original_full'` avoids it."
        )
    return layout


def _with_optional(mainnet: PreTrainedModel, inputs: dict[str, Any], vectors: int | None) -> dict[str, Any] | None:
    """Add what a text may bring besides tokens and their mask, or an image besides pixels; `None` if nothing."""
    optional = {}
    if "input_ids" in inputs:
        ids = inputs["input_ids"]
        optional["token_type_ids"] = torch.zeros_like(ids)
        optional["position_ids"] = torch.arange(ids.shape[1], device=ids.device).expand_as(ids).contiguous()
    elif vectors is not None:
        pixels = next(iter(inputs.values()))
        mask = torch.ones(pixels.shape[0], vectors, dtype=torch.long, device=pixels.device)
        mask[1::2, -1] = 0
        optional["attention_mask"] = mask
    names = arguments_of(mainnet)
    known = {name: value for name, value in optional.items() if name in names}
    return inputs | known if known else None


def _traits(mainnet: nn.Module) -> dict[str, str]:
    """Return class and text attributes of every module: what decides how it runs."""
    traits = {}
    for name, module in mainnet.named_modules():
        traits[name] = type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, str) and not key.startswith("_"):
                traits[f"{name}.{key}".removeprefix(".")] = value
    return traits


def _first_difference(before: dict[str, str], after: dict[str, str]) -> str | None:
    for name, value in before.items():
        if after.get(name, value) != value:
            return f"`{name}` is {after[name]!r}, no longer {value!r}"
    return None


def check_as_built(auto_class: AutoClass, mainnet: PreTrainedModel, code: dict[str, Any] | None) -> None:
    """Reject a MainNet that runs otherwise than one that is built from its config, as a checkpoint will be.

    Args:
        auto_class (`type`): Auto class of the task.
        mainnet (`PreTrainedModel`): the MainNet.
        code (`dict`, *optional*): `mainnet_code` of the [`SideNetConfig`].

    Raises:
        ValueError: a text attribute of a module differs.
    """
    if is_network(mainnet.config) and mainnet.config.factory is None:
        return
    with torch.device("meta"):
        twin = new_mainnet(auto_class, copy.deepcopy(mainnet.config), code)
    if is_network(mainnet.config):
        check_same_weights(twin, mainnet)
    built, found = _traits(twin), _traits(mainnet)
    # Classes may differ for good reasons: quantization, adapters, a head of one's own.
    modules = {name for name, _ in mainnet.named_modules()}
    changed = _first_difference({name: value for name, value in built.items() if name not in modules}, found)
    if changed is not None:
        raise ValueError(
            f"{name_of(mainnet)} is no longer what its config says: {changed}. It may have changed itself on inputs "
            "that it met, as BigBird does on short texts; load it again."
        )


def layout_of(model: Any) -> Layout:
    """Return where the MainNet of a model with SideNets is split.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; a checkpoint's own code may be older, and record nothing.
    """
    recorded = vars(model.config).get("layout")
    if recorded is not None:
        return Layout.from_dict(recorded)
    mainnet = sharing_weights(model.mainnet)
    return observe_mainnet(mainnet, model.task, model.modality, model.config.input_size, model.config.blocks)


@torch.no_grad()
def try_gates(
    mainnet: PreTrainedModel, layout: Layout, modality: Modality, input_size: list[int] | None, *, rows_exit: bool
) -> list[torch.Tensor]:
    """Answer example rows through the gates; let rows exit at several, and compare the answers of the others.

    Args:
        mainnet (`PreTrainedModel`): a task model with the gates.
        layout ([`Layout`]): where it is split.
        modality ([`Modality`]): its modality.
        input_size (`list[int]`, *optional*): size from [`~Modality.input_size`].
        rows_exit (`bool`): whether rows exit, which needs initialized weights.

    Returns:
        `list[torch.Tensor]`: x_c of the example rows at every gate.

    Raises:
        ValueError: a block changes its input in place, or an answer changes when another row exits.
    """
    seen: list[tuple[int, torch.Tensor, int]] = []

    def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        seen.append((index, hidden, hidden._version))

    with evaluating(mainnet):
        inputs = example_inputs(mainnet, modality, input_size, PROBE_MORE_ROWS)
        plain = run_mainnet(mainnet, Run(record), **inputs, return_dict=True).logits
        for index, hidden, version in seen:
            if hidden._version != version:
                raise ValueError(f"block {layout.blocks[index]} must not change its input in place, but it does.")
        last = len(layout.gates)
        # Later gates too: a MainNet may pass rows around only some of its blocks.
        for exits in ({1: [1]}, {(last + 1) // 2: [0, 3]}, {last: [1]}, {1: [2], last: [0, 1]}) if rows_exit else ():
            _check_exits(mainnet, inputs, plain, exits)
    return [hidden for _, hidden, _ in seen]


def _check_exits(
    mainnet: PreTrainedModel, inputs: dict[str, Any], plain: torch.Tensor, exits: dict[int, list[int]]
) -> None:
    """Let rows exit: at each gate, by their places among the rows that remain."""
    remaining = torch.arange(len(plain))

    def visit(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        nonlocal remaining
        if index not in exits:
            return None
        keep = torch.tensor([i for i in range(len(remaining)) if i not in exits[index]])
        remaining = remaining[keep]
        return keep.to(hidden.device)

    name = name_of(mainnet)
    try:
        split = run_mainnet(mainnet, Run(visit), **inputs, return_dict=True)
        check_unchanged(split.logits[remaining.to(plain.device)], plain[remaining.to(plain.device)])
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".,") or type(error).__name__
        raise ValueError(
            f"{name} cannot be split: when rows exit after {[*exits]} blocks, the others' {reason}."
            if reason.startswith("answers change")
            else f"{name} cannot be split: it fails when rows exit after {[*exits]} blocks ({reason})."
        ) from error


def _check_logits(mainnet: PreTrainedModel, task: Task, logits: torch.Tensor) -> None:
    expected = (len(PROBE_LENGTHS), task.num_outputs(mainnet.config))
    if tuple(logits.shape) != expected:
        raise ValueError(
            f"a MainNet must be a classifier with logits of shape (batch, num_labels), here {expected}; "
            f"{type(mainnet).__name__} returns {tuple(logits.shape)}."
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"{name_of(mainnet)} cannot be checked: its logits are not finite on {len(PROBE_LENGTHS)} example rows. "
            "Its weights contain NaN, or it overflows in its precision."
        )


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
    mainnet: nn.Module, layout: Layout, modality: Modality, inputs: dict[str, Any]
) -> list[ExitPoint]:
    """Measure the share of parameters and FLOPs that each prefix of the MainNet uses on the given inputs.

    A parameter counts as used if the gradient of x_c reaches it.
    """
    params = detached_parameters(mainnet)
    total_params = sum(p.numel() for p in params.values())

    def run(some: dict[str, Any]) -> tuple[list[torch.Tensor], list[int]]:
        """Return x_c at every gate, and the FLOPs up to each and in total."""
        seen: list[torch.Tensor] = []
        flops: list[int] = []

        def record(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
            seen.append(hidden)
            flops.append(counter.get_total_flops())

        with evaluating(mainnet), torch.inference_mode(False), torch.enable_grad(), counting_flops() as counter:
            run_mainnet(partial(_call_with, mainnet, params), Run(record), **some, return_dict=True)
        return seen, [*flops, counter.get_total_flops()]

    name = modality.main_input(inputs) or modality.main_inputs[0]
    num_rows = len(inputs[name])
    hidden, flops = run(inputs)
    total = flops[-1]
    # What every row costs is the slope between one row and all.
    shared = [0.0] * len(flops)
    if num_rows > 1:
        _, alone = run({key: x[:1] if isinstance(x, torch.Tensor) and x.ndim else x for key, x in inputs.items()})
        shared = [(num_rows * one - every) / (num_rows - 1) for one, every in zip(alone, flops, strict=True)]
    measured = [ExitPoint(0, name, tuple(modality.block_shape(inputs[name])), 0.0, 0.0, max(0.0, shared[-1] / total))]
    for index, x_c in enumerate(hidden, start=1):
        measured.append(
            ExitPoint(
                exit_layer=index,
                module=layout.blocks[index - 1],
                shape=tuple(modality.block_shape(x_c)),
                params=used_parameters(x_c, params) / total_params,
                flops=flops[index - 1] / total,
                shared_flops=max(0.0, (shared[-1] - shared[index - 1]) / total),
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
    auto_class: AutoClass, path: str | os.PathLike, kwargs: dict[str, Any]
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


def check_rebuilds(auto_class: AutoClass, mainnet: PreTrainedModel) -> None:
    """Reject a MainNet that could not be rebuilt from a checkpoint; record its class if its config has several.

    Raises:
        ValueError: the Auto class builds another class, the MainNet has remote code, or it has adapters.
    """
    kind = type(mainnet)
    if is_network(mainnet.config):
        return
    if has_adapters(mainnet):
        raise ValueError(
            f"a MainNet must not have adapters, which a checkpoint with SideNets cannot store, got "
            f"{sorted(mainnet.peft_config)}: merge them first (peft: `merge_and_unload()`), or add them after the "
            "SideNets."
        )
    known_kinds = known_classes(auto_class)
    if type(mainnet.config) not in known_kinds or kind.__module__.startswith("transformers_modules."):
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds from transformers' own code, got "
            f"{kind.__name__} from {kind.__module__.partition('.')[0]}: pass `trust_remote_code=True` if its code may "
            "travel with checkpoints, and run where they are loaded."
        )
    built = known_kinds[type(mainnet.config)]
    kinds = built if isinstance(built, tuple) else (built,)
    if kind not in kinds:
        raise ValueError(
            f"a MainNet must be a classifier that {auto_class.__name__} builds, which for "
            f"{mainnet.config.model_type!r} is {' or '.join(known.__name__ for known in kinds)}; got {kind.__name__}. "
            "Pass `trust_remote_code=True` if its own code may travel with checkpoints, and run where they are loaded."
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
