# SPDX-License-Identifier: Apache-2.0
"""Base class of all MainNets with SideNets: building, attaching, loading, freezing."""

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.generic import ModelOutput

from .config_rules import is_count
from .configuration_sidenet import SIDENET_FIELDS, SideNetConfig, chain_of, refuse_misspelled
from .errors import ArgumentError
from .exit_rule import has_weights
from .gate import install, remove_gates
from .input_exit import NgramTable, TokenTable, default_sizes, new_input_sidenet
from .layout import Layout
from .mainnet import (
    ExitPoint,
    check_as_built,
    check_learnable,
    check_rebuilds,
    has_adapters,
    last_layer,
    load_mainnet,
    measure_exit_points,
    observe_mainnet,
    replace_head,
    set_learning,
    share_quantization,
    spare_sidenets,
    try_gates,
)
from .mainnet_code import code_of, name_factory, needs_code, new_mainnet, run_code, write_code
from .mainnet_config import as_config
from .modalities import Modality
from .raw_models import as_mainnet, network_arguments
from .row_inputs import arguments_of
from .sidenet import SideNet
from .tasks import Task
from .transformers_private import AutoClass, initialize, mark_initialized
from .wrapped_network import check_can_be_saved


logger = logging.get_logger(__name__)

# The default in transformers.
INITIALIZER_RANGE = 0.02
# Arguments of `from_pretrained` that say where files are.
CODE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


@dataclass
class SideNetOutput(ModelOutput):
    """Output of a MainNet with SideNets. Every field except `loss` has one entry per row, in batch order.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` is given):
            In training and with exits off, `L_M + Σ α_i · L_Si` over the computed exits; with exits on,
            cross-entropy of `logits`.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Logits of the exit that answered.
        exit_index (`torch.LongTensor` of shape `(batch_size,)`):
            Index of the exit that answered: 0 for the first SideNet, `len(exit_layers)` for the MainNet.
        exit_logits (`torch.FloatTensor` of shape `(batch_size, num_exits, num_labels)`):
            Raw logits (no temperature) of every exit a row reached, NaN beyond `exit_index`. NaN at or before it
            means that the exit itself computed NaN.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): hidden states of the MainNet; only with exits off.
        attentions (`tuple[torch.FloatTensor]`, *optional*): attentions of the MainNet; only with exits off.
    """

    loss: torch.Tensor | None = None
    # Always set: `ModelOutput` requires a default for every field but the first.
    logits: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    exit_index: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    exit_logits: torch.Tensor = None  # pyright: ignore[reportAssignmentType]
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


Own = TypeVar("Own", bound="SideNetPreTrainedModel")


class SideNetPreTrainedModel(PreTrainedModel):
    """Whole task model as MainNet, with SideNets between its blocks. Use one of the task classes.

    In training, every exit is computed and no row exits early. In evaluation, a row exits at the first SideNet whose
    confidence is > θ, and the remaining blocks run without it.
    """

    config_class = SideNetConfig
    base_model_prefix = "mainnet"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    # Its block masks keep the full batch, and a kernel that gets fewer rows crashes the process.
    _supports_flex_attn = False
    _no_split_modules = ["SideNet", "TextInputSideNet", "ImageInputSideNet"]
    config: SideNetConfig
    mainnet: PreTrainedModel
    mainnet_inputs: frozenset[str]
    sidenets: nn.ModuleList
    modality: Modality
    tasks: tuple[Task, ...] = ()
    mainnet_auto_class: AutoClass
    mainnet_model_type: str | None = None

    def __init__(self, config: SideNetConfig, mainnet: PreTrainedModel | None = None):
        super().__init__(config)
        config.validate()
        self._check_model_type(config.mainnet_config)
        if mainnet is None:
            # Its class may not have been known when the config was read.
            config.mainnet_config = as_config(config.mainnet_config, config.mainnet_code)
            mainnet = new_mainnet(self.mainnet_auto_class, config.mainnet_config, config.mainnet_code)
        else:
            if config.mainnet_code is None:
                check_rebuilds(self.mainnet_auto_class, mainnet)
            check_as_built(self.mainnet_auto_class, mainnet, config.mainnet_code)
            for module in mainnet.modules():
                mark_initialized(module)
        for name in mainnet.config.sub_configs:
            part: Any = getattr(mainnet.config, name, None)
            if getattr(part, "use_cache", False):
                # A cache would keep rows that exit; not all MainNets pass the argument on.
                part.use_cache = False
        if config.mainnet_head == "mlp":
            replace_head(mainnet, self.task, config.sidenet_hidden_size)
        self.mainnet = mainnet
        self.mainnet_inputs = arguments_of(mainnet)
        if mainnet.config.id2label is None:
            mainnet.config.id2label, mainnet.config.label2id = config.id2label, config.label2id
        config.mainnet_config = mainnet.config
        share_quantization(mainnet, self)
        config.auto_map = self._auto_map()
        self._install_gates()
        self.sidenets = nn.ModuleList(self._new_sidenet(config, i) for i in range(len(config.exit_layers)))
        self.post_init()
        if config.freeze_mainnet != "none":
            self.set_freeze_mainnet(config.freeze_mainnet)

    @classmethod
    def from_mainnet(
        cls: type[Own],
        mainnet: str | os.PathLike | nn.Module,
        *,
        exit_layers: list[int],
        **kwargs: Any,
    ) -> Own:
        """Attach SideNets to a classifier, keeping its weights, head, labels, dtype and attention implementation.

        Args:
            mainnet (`str`, `PreTrainedModel` or `nn.Module`):
                Folder or Hub id of a classifier, or a model, which is wrapped, not copied: of transformers, of timm
                (`timm.create_model`), of torchvision, or any other network that maps a batch to logits.
            exit_layers (`list[int]`):
                For each SideNet, how many blocks run before it; `model.exit_points()` lists the options.
            kwargs:
                Fields of [`SideNetConfig`]; the rest goes to the MainNet's `from_pretrained` (and its config).
                Weights are read from safetensors; `use_safetensors=False` allows pickle. `trust_remote_code=True` runs
                the code that the classifier brings, or takes the code of your own class along: it travels with every
                checkpoint, and runs wherever one is loaded with `trust_remote_code=True`.
                For a network that is not from transformers: `example_inputs`, a batch of its inputs (see
                [`as_mainnet`]); `id2label`; and `code="my_net.py:build"`, a function without arguments that returns
                the network, without which it cannot be saved.

        Raises:
            ValueError: an argument is unknown; the MainNet is not supported, cannot be split, or is frozen with some
                random weights.
        """
        own = {name: kwargs.pop(name) for name in SIDENET_FIELDS if name in kwargs}
        for name in ("mainnet_config", "block_shapes", "layout", "mainnet_code"):
            if name in own:
                raise ArgumentError(name, "must not be passed to from_mainnet, which reads it from the MainNet")
        refuse_misspelled(kwargs)
        network = network_arguments(mainnet, kwargs)
        mainnet = as_mainnet(mainnet, **network)
        freeze = own.get("freeze_mainnet", "all")
        if own.get("mainnet_head") == "mlp" and freeze == "all":
            raise ValueError(
                "`mainnet_head='mlp'` gives the MainNet a new head, which must be trained: `freeze_mainnet` must be "
                "'none' or 'body', got 'all'."
            )
        trusted = kwargs.get("trust_remote_code") is True
        if isinstance(mainnet, PreTrainedModel):
            kwargs.pop("trust_remote_code", None)
            if kwargs:
                raise ValueError(f"from_mainnet takes {sorted(kwargs)} only with a checkpoint name, got a model.")
        else:
            path = mainnet
            mainnet, missing = load_mainnet(cls.mainnet_auto_class, path, kwargs)
            if freeze != "none" and missing:
                check_learnable(mainnet, cls._task_of(mainnet.config), missing, freeze, path)
        if trusted and needs_code(mainnet):
            code = code_of(cls.mainnet_auto_class, mainnet)
            mainnet.config.auto_map, own["mainnet_code"] = dict(code.names), code.record()
        if network.get("code") is not None:
            own["mainnet_code"] = name_factory(mainnet, network["code"], trusted).record()
        config = SideNetConfig(mainnet.config, exit_layers=exit_layers, **own)
        config.name_or_path = mainnet.config.name_or_path
        return cls(config, mainnet).eval()

    @classmethod
    def from_pretrained(
        cls: type[Own],
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Own:
        """See [`PreTrainedModel.from_pretrained`]. Reads safetensors unless `use_safetensors=False` is passed.

        Raises:
            ValueError: the checkpoint is a plain model, or lacks weights.
        """
        named = cls._named_by(kwargs.get("config"))
        if named is not cls:
            kwargs["output_loading_info"] = output_loading_info
            other: Any = named.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            return other
        if kwargs.get("trust_remote_code") is True:
            run_code(
                pretrained_model_name_or_path, **{name: kwargs[name] for name in CODE_ARGUMENTS if name in kwargs}
            )
        kwargs.setdefault("use_safetensors", True)
        if "quantization_config" in kwargs:
            kwargs["quantization_config"] = spare_sidenets(kwargs["quantization_config"])
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        mismatched = {name for name, *_ in info["mismatched_keys"]}
        missing = sorted(set(info["missing_keys"]) - mismatched)
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path!r} has no weights for {missing[:5]}{' ...' if missing[5:] else ''} "
                f"({len(missing)} in total). Attach SideNets to a plain classifier with `from_mainnet`, or to a "
                "checkpoint that has some with `model.add_exits`."
            )
        freeze = model.config.freeze_mainnet
        if freeze != "none":
            random = {name.removeprefix("mainnet.") for name in mismatched if name.startswith("mainnet.")}
            check_learnable(model.mainnet, model.task, random, freeze, str(pretrained_model_name_or_path))
            if not has_adapters(model):
                model.set_freeze_mainnet(freeze)
        if mismatched:
            # They were determined for the checkpoint's weights, not for reinitialized ones.
            model.config.thresholds, model.config.temperatures, model.config.calibration = 1.0, 1.0, None
        # So that `model.mainnet.save_pretrained` works too.
        share_quantization(model, model.mainnet)
        # Same return type as in transformers, which may also return a tuple.
        return cast(Own, (model, info)) if output_loading_info else model

    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        """See [`PreTrainedModel.save_pretrained`]. Code of the MainNet's own is written too.

        Raises:
            ValueError: the MainNet is a network that cannot be built again.
        """
        check_can_be_saved(self.config.mainnet_config)
        if is_main_process and self.config.mainnet_code is not None:
            # Before the rest, which may be pushed.
            os.makedirs(save_directory, exist_ok=True)
            write_code(self.config.mainnet_code, save_directory)
        found = type(self)
        # FSDP 2 swaps in a class made at run time, whose code would be saved instead of this one's.
        self.__class__ = next(kind for kind in found.__mro__ if not kind.__module__.startswith("torch."))
        try:
            return super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        finally:
            self.__class__ = found

    @property
    def task(self) -> Task:
        """Task of this model."""
        return self._task_of(self.config)

    @classmethod
    def _task_of(cls, config: PretrainedConfig) -> Task:
        """Return the task that the config's `problem_type` names, by default the first."""
        for task in cls.tasks:
            if task.name == config.problem_type:
                return task
        return cls.tasks[0]

    @property
    def block_shapes(self) -> list[list[int]]:
        """Shape of x_c after 1, 2, ... blocks; see [`SideNetConfig`]."""
        shapes = self.config.block_shapes
        assert shapes is not None  # Recorded when the model is created.
        return shapes

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return cast(int, self.config.num_labels)

    def exit_points(self, **inputs: torch.Tensor) -> list[ExitPoint]:
        """List every place for a SideNet, with its shape and share of parameters and FLOPs.

        Args:
            inputs (`torch.Tensor`, *optional*):
                MainNet inputs to measure on, by default three example rows (texts of up to 8 tokens).
        """
        inputs = inputs or self.modality.example_inputs(self.mainnet, self.config.input_size)
        return measure_exit_points(self.mainnet, self.layout, self.modality, inputs)

    def resize_token_embeddings(self, *args, **kwargs):
        """See [`PreTrainedModel.resize_token_embeddings`]: resizes the MainNet and updates its config."""
        return self.mainnet.resize_token_embeddings(*args, **kwargs)

    def add_exits(self, exit_layers: list[int], pooling: str = "auto") -> None:
        """Add untrained SideNets with θ = 1, in the model's training mode. Existing SideNets keep their weights and θ.

        Args:
            exit_layers (`list[int]`): number of blocks before each new SideNet.
            pooling (`str`): how the new SideNets read x_c.

        Raises:
            ValueError: a place is invalid or already has a SideNet.
        """
        old = self.config
        if not isinstance(exit_layers, list | tuple) or not all(map(is_count, exit_layers)):
            raise ArgumentError("exit_layers", "must be a list of block counts, integers ≥ 0", exit_layers)
        taken = sorted(set(exit_layers) & set(old.exit_layers))
        if taken or not exit_layers:
            got = f"got {taken} again" if taken else "got none"
            raise ArgumentError("exit_layers", f"must name new places, at least one; {got}")
        if has_weights(chain_of(old)):
            raise ArgumentError(
                "exit_layers",
                f"cannot be added to SideNets that build on each other, got `config.chain` {chain_of(old)}",
                advice="Set `config.chain = None` first.",
            )
        at = {layer: i for i, layer in enumerate(old.exit_layers)}
        new = {"thresholds": 1.0, "temperatures": 1.0, "alpha": 1.0, "pooling": pooling}
        config = copy.copy(old)
        config.chain = None
        config.exit_layers = sorted([*old.exit_layers, *exit_layers])
        for name, value in new.items():
            values = getattr(old, name)
            merged = [values[at[layer]] if layer in at else value for layer in config.exit_layers]
            # The MainNet's temperature stays the last.
            setattr(config, name, merged + values[len(at) :])
        config.pooling = self._poolings(config, self.layout)
        sidenets = {
            i: initialize(self, self._new_sidenet(config, i)).train(self.training)
            for i, layer in enumerate(config.exit_layers)
            if layer not in at
        }
        # Nothing is modified before this point, so an error changes nothing.
        old.chain = None
        for name in ("exit_layers", *new, "input_sidenet"):
            setattr(old, name, getattr(config, name))
        old.calibration = None
        for i, sidenet in sidenets.items():
            self.sidenets.insert(i, sidenet)

    def set_freeze_mainnet(self, mode: str) -> None:
        """Set how much of the MainNet is frozen, and record it in the config.

        Args:
            mode (`str`): `"all"` frozen, `"body"` frozen (its last layer trains), or `"none"`.

        Raises:
            ValueError: the mode is unknown, or the model has adapters, which decide what trains.
        """
        if has_adapters(self):
            raise ArgumentError(
                "freeze_mainnet",
                "must be set before adding adapters, which freeze all other weights; "
                f"got {mode!r} after {sorted(self.peft_config)}",
            )
        config = copy.copy(self.config)
        config.freeze_mainnet = mode
        config.validate()
        self.config.freeze_mainnet = mode
        set_learning(self.mainnet, mode == "none")
        if mode == "body":
            set_learning(last_layer(self.mainnet, self.task)[1], True)
        self.train(self.training)

    def train(self, mode: bool = True):
        """Set training mode; a frozen MainNet stays in evaluation mode (no dropout, fixed BatchNorm statistics)."""
        super().train(mode)
        if mode and self.config.freeze_mainnet != "none":
            self.mainnet.eval()
            if self.config.freeze_mainnet == "body":
                last_layer(self.mainnet, self.task)[1].train()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """See [`PreTrainedModel._init_weights`]. Ignores the MainNet's `initializer_range`."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=INITIALIZER_RANGE)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, NgramTable):
            init.zeros_(module.weight)
        elif isinstance(module, TokenTable):
            init.normal_(module.weight, std=INITIALIZER_RANGE)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Conv2d):
            super()._init_weights(module)

    @classmethod
    def _named_by(cls, config: PretrainedConfig | None) -> "type[SideNetPreTrainedModel]":
        """Return the class that a config names: an Auto class with remote code calls the first class it loaded."""
        classes: list[type[SideNetPreTrainedModel]] = [SideNetPreTrainedModel]
        found: dict[str, type[SideNetPreTrainedModel]] = {}
        for known in classes:
            classes += known.__subclasses__()
            found[known.__name__] = known
        names = getattr(config, "architectures", None)
        named = found.get(names[0], cls) if names else cls
        # Keep a subclass of the named class, unless it is for other MainNets.
        fits = issubclass(cls, named) and (
            named is cls or config is None or cls.mainnet_model_type in (None, config.mainnet_config.model_type)
        )
        return cls if fits else named

    def _check_model_type(self, mainnet_config: PretrainedConfig) -> None:
        expected, got = self.mainnet_model_type, mainnet_config.model_type
        if expected not in (None, got):
            generic = self.task.class_name(self.modality)
            raise ValueError(
                f"{type(self).__name__} needs a MainNet of type {expected!r}, got {got!r}. {generic} takes any."
            )

    def _auto_map(self) -> dict[str, str]:
        name = f"{type(self).__module__.rpartition('.')[-1]}.{type(self).__name__}"
        config_module = type(self.config).__module__.rpartition(".")[-1]
        auto_class = cast(str, self._auto_class)
        return {"AutoConfig": f"{config_module}.SideNetConfig", "AutoModel": name, auto_class: name}

    @property
    def layout(self) -> Layout:
        """Where the MainNet is split, as observed when a SideNet was first attached."""
        assert self.config.layout is not None  # Recorded when the model is created.
        return Layout.from_dict(self.config.layout)

    def _install_gates(self) -> None:
        config, mainnet = self.config, self.mainnet
        if config.layout is not None:
            return install(mainnet, Layout.from_dict(config.layout))
        input_size = self.modality.input_size(mainnet.config, config.input_size)
        # Offloaded weights are on "meta" too, until their hooks load them.
        offloaded = getattr(mainnet, "hf_device_map", None) is not None
        on_meta = not offloaded and any(parameter.is_meta for parameter in mainnet.parameters())
        # Only shapes matter: observe a copy with real tensors of arbitrary values.
        real = self._with_tensors() if on_meta else mainnet
        # The weights of an earlier checkpoint were checked when SideNets were attached, and are not loaded yet.
        checks = not on_meta and config.block_shapes is None
        # The caller may build on "meta", where example rows have no values.
        with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
            layout = observe_mainnet(real, self.task, self.modality, input_size, config.blocks)
            install(real, layout)
            try:
                hidden = try_gates(real, layout, self.modality, input_size, rows_exit=checks)
            except ValueError:
                remove_gates(real, own=True)
                raise
        shapes = [self.modality.block_shape(x) for x in hidden]
        if config.block_shapes is None:
            config.input_size, config.block_shapes = input_size, shapes
        elif config.block_shapes != shapes:
            raise ValueError(
                f"this checkpoint was made by an earlier version of this package, which split the MainNet into blocks "
                f"of shapes {config.block_shapes}; now they are {shapes}."
            )
        if on_meta:
            install(mainnet, layout)
        config.layout = layout.to_dict()
        # The places first.
        config.validate()
        config.pooling = self._poolings(config, layout)

    def _with_tensors(self) -> PreTrainedModel:
        with torch.device("cpu"):
            twin = new_mainnet(self.mainnet_auto_class, self.config.mainnet_config, self.config.mainnet_code)
            if any(parameter.is_meta for parameter in twin.parameters()):
                # Accelerate's `init_empty_weights` overrides the device.
                twin = twin.to_empty(device="cpu")
                for tensor in (*twin.parameters(), *twin.buffers()):
                    tensor.detach().zero_()
        return twin

    def _poolings(self, config: SideNetConfig, layout: Layout) -> list[str]:
        """Return how SideNets read x_c: where it has no vector per token, the first alone."""
        poolings = []
        for layer, pooling in zip(config.exit_layers, config.pooling, strict=True):
            fits_mask = layer == 0 or layout.gates[layer - 1].fits_mask
            if not fits_mask and pooling not in ("auto", "cls"):
                raise ArgumentError(
                    "pooling", f"must be 'cls' after {layer} blocks, where there is no vector per token", pooling
                )
            poolings.append(pooling if fits_mask else "cls")
        return poolings

    def _new_sidenet(self, config: SideNetConfig, index: int) -> nn.Module:
        if config.exit_layers[index] == 0:
            num_outputs = self.task.num_outputs(config)
            if config.input_sidenet is None:
                config.input_sidenet = default_sizes(config, self.modality, num_outputs)
            return self._beside_mainnet(new_input_sidenet(config, self.modality, num_outputs))
        assert config.block_shapes is not None  # Recorded when the gates were installed.
        shape = config.block_shapes[config.exit_layers[index] - 1]
        in_features = self.modality.pooled_size(shape, config.pooling[index])
        return self._beside_mainnet(SideNet(in_features, config.sidenet_hidden_size, self.task.num_outputs(config)))

    def _beside_mainnet(self, sidenet: nn.Module) -> nn.Module:
        if next(sidenet.parameters()).is_meta:
            # While loading. A MainNet may have some real tensors even then (XLNet).
            return sidenet.to(self.mainnet.dtype)
        return sidenet.to(self.mainnet.device, self.mainnet.dtype)
