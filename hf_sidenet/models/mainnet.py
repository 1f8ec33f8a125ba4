# SPDX-License-Identifier: Apache-2.0
"""Everything about the MainNet as a whole: loading it, its last layer, what of it learns."""

import copy
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig

from .sidenet_head import SideNet


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
