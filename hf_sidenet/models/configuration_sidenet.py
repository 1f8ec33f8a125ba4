# SPDX-License-Identifier: Apache-2.0
"""Configuration of a MainNet with SideNets."""

import copy
import difflib
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from transformers import AutoConfig, PretrainedConfig
from transformers.utils.versions import require_version

from .config_rules import (
    by_index,
    check_input_sidenet,
    checked_chain,
    checked_exit_layers,
    is_positive,
    is_shape,
    numbers,
    one_of,
    one_per,
)
from .errors import ArgumentError
from .exit_rule import check_thresholds
from .mainnet_code import check_record
from .mainnet_config import as_config, check_size
from .modalities import BOTH, EMBEDDINGS, NGRAMS, PIXELS, POOLINGS
from .row_inputs import TOKEN_INPUTS  # noqa: F401  imported by modalities.py; see the note above `check_versions()`
from .tasks import SINGLE_LABEL, modality_of, task_of
from .transformers_private import attention_of, generation_parameters
from .wrapped_network import NetworkConfig  # noqa: F401  the same for mainnet_config.py


# The lower bounds in setup.cfg.
REQUIRED = ("torch>=2.11", "transformers>=5.17")

# Class for a config without `architectures`, by the MainNet's model type.
NAMED_ARCHITECTURES = {
    "bert": "BertWithSideNetForSequenceClassification",
    "distilbert": "DistilBertWithSideNetForSequenceClassification",
    "roberta": "RobertaWithSideNetForSequenceClassification",
    "xlm-roberta": "XLMRobertaWithSideNetForSequenceClassification",
    "camembert": "CamembertWithSideNetForSequenceClassification",
    "electra": "ElectraWithSideNetForSequenceClassification",
    "mpnet": "MPNetWithSideNetForSequenceClassification",
    "deberta-v2": "DebertaV2WithSideNetForSequenceClassification",
    "modernbert": "ModernBertWithSideNetForSequenceClassification",
    "resnet": "ResNetWithSideNetForImageClassification",
    "regnet": "RegNetWithSideNetForImageClassification",
    "convnext": "ConvNextWithSideNetForImageClassification",
    "convnextv2": "ConvNextV2WithSideNetForImageClassification",
    "deit": "DeiTWithSideNetForImageClassification",
    "dinov2": "Dinov2WithSideNetForImageClassification",
    "swin": "SwinWithSideNetForImageClassification",
    "vit": "ViTWithSideNetForImageClassification",
    "timm_wrapper": "TimmWithSideNetForImageClassification",
}
# Fields that describe how this checkpoint is stored: never the MainNet's, even if its config has the same name. peft
# compares `vocab_size` to the checkpoint in `name_or_path`, which it would read as one with SideNets.
OUTER = ("auto_map", "quantization_config", "vocab_size")
# MainNet fields that config.json repeats at the top level, where the Hub and image processors look for them.
REPEATED = ("id2label", "label2id", "problem_type", "architecture", "pretrained_cfg")
OWN_PREFIXES = ("exit_", "sidenet_", "input_sidenet", "threshold", "temperature")
# Fields fixed by a checkpoint's weights.
FIXED_BY_WEIGHTS = ("exit_layers", "pooling", "sidenet_hidden_size", "mainnet_head", "input_sidenet")
# Fields that answers depend on: a checkpoint that lost one must not be loaded with a default.
NEEDED = ("model_type", "mainnet_config", *FIXED_BY_WEIGHTS[:-1], "thresholds", "temperatures")
# Fields that the evidence covers: changing one voids it.
CERTIFIED = ("exit_layers", "pooling", "thresholds", "temperatures", "chain", "id2label")


def check_versions() -> None:
    """Reject older libraries.

    Raises:
        ImportError: a library is too old; the message names the installed and required versions.
    """
    for requirement in REQUIRED:
        name = requirement.partition(">")[0]
        require_version(requirement, f"SideNet models require it: pip install --upgrade {name}")


def begins_at_input(config: "SideNetConfig") -> bool:
    """Return whether the first SideNet sits before the first block: stages 0 and 1 both start from the inputs."""
    # Not a method: a checkpoint's own code may be older.
    return config.exit_layers[0] == 0


def chain_of(config: "SideNetConfig") -> list[list[float]]:
    """Return `config.chain`, with zeros if there is none."""
    # A checkpoint's own code may be older. Not `getattr`, which would ask the MainNet's config.
    chain = vars(config).get("chain")
    return [[0.0] * i for i in range(1, len(config.exit_layers) + 1)] if chain is None else chain


if TYPE_CHECKING:
    Value = TypeVar("Value")

    class OneOrMore(Generic[Value]):
        """Field set as one value or a list, and read as a list; see `SideNetConfig.__setattr__`."""

        def __get__(self, config: Any, owner: type | None = None) -> list[Value]: ...

        def __set__(self, config: Any, value: Value | Sequence[Value]) -> None: ...


class MainNetField:
    """Standard config field that is stored in the MainNet's config."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        # On the class, the field's default, as for any other config.
        return getattr(PretrainedConfig if config is None else config.mainnet_config, self.name)

    def __set__(self, config: Any, value: Any) -> None:
        setattr(config.mainnet_config, self.name, value)


def default_architecture(mainnet_config: PretrainedConfig) -> str:
    """Return the name of the class for a [`SideNetConfig`] without `architectures`."""
    generic = SINGLE_LABEL.class_name(modality_of(mainnet_config))
    return NAMED_ARCHITECTURES.get(mainnet_config.model_type, generic)


# Before anything else runs, because older libraries fail far from the cause. An older transformers also copies only
# the files imported above out of a folder, so everything that those import must be among them.
check_versions()


def _thresholds(value: Any, num_sidenets: int) -> list[float]:
    if not isinstance(value, list | tuple | Real):
        raise ArgumentError("thresholds", "of a config must be a number or one per SideNet", value)
    checked: float | Sequence[float] = value  # pyright: ignore[reportAssignmentType]  a `Real` passes for a float
    try:
        return check_thresholds(checked, num_sidenets)
    # JSON integers can be too large for a float.
    except OverflowError as error:
        raise ArgumentError("thresholds", "must contain numbers that fit a float", value) from error


def _poolings(value: Any, num_sidenets: int) -> list[str]:
    if not isinstance(value, str | list | tuple):
        raise ArgumentError("pooling", "must be a name or one per SideNet", value)
    names = [value] * num_sidenets if isinstance(value, str) else list(value)
    one_per("pooling", names, num_sidenets)
    for name in names:
        one_of("pooling", name, (*POOLINGS, BOTH, NGRAMS, EMBEDDINGS, PIXELS))
    return names


PER_EXIT: dict[str, Callable[[Any, int], Any]] = {
    "thresholds": _thresholds,
    "temperatures": lambda value, n: numbers("temperatures", value, n + 1, "> 0", lambda x: x > 0),
    "chain": checked_chain,
    "alpha": lambda value, n: numbers("alpha", value, n, "≥ 0", lambda x: x >= 0),
    "pooling": _poolings,
}


class SideNetConfig(PretrainedConfig):
    """Configuration of a MainNet with one or more SideNets ("Add a SideNet to your MainNet", arXiv 2007.13512).

    Args:
        mainnet_config (`PretrainedConfig` or `dict`, *optional*, defaults to a default `BertConfig`):
            Configuration of the MainNet. Copied, never changed.
        exit_layers (`list[int]`, *optional*, defaults to `[1]`):
            For each SideNet, how many of the MainNet's blocks run before it: `[4]` is the paper's BERT-base. Strictly
            rising, from 0 to the number of blocks minus 1. At 0 it reads the input, and the MainNet never runs on rows
            that exit there.
        sidenet_hidden_size (`int`, *optional*, defaults to 32):
            Width of the SideNets' hidden layer (paper: 32).
        pooling (`str` or `list[str]`, *optional*, defaults to `"auto"`):
            How a SideNet reads x_c: `"mean"` of the unmasked tokens, `"cls"` (the paper's, for text), `"gap"` of a
            feature map, `"flatten"` (the paper's, for images; ties the checkpoint to `input_size`), or `"auto"`:
            mean for tokens, gap for maps. One name, or one per SideNet. At exit layer 0: `"ngrams"`, `"embeddings"` or
            `"ngrams+embeddings"` (`"auto"`) of a text, `"pixels"` of an image.
        thresholds (`float` or `list[float]`, *optional*, defaults to 1.0):
            θ of each SideNet, ≥ 0. A row exits where its confidence is > θ; at θ ≥ 1 no row does.
        temperatures (`list[float]`, *optional*, defaults to 1.0 for every exit):
            Softmax temperature of each exit, the MainNet's last; affects confidences only.
        chain (`list[list[float]]`, *optional*):
            For every exit after the first, the MainNet's last, the weights of the logits of the exits before it, which
            are added to its own: its rows have been given them anyway. No gradient flows through them. Weights of the
            MainNet change its answers to those of an ensemble.
        alpha (`float` or `list[float]`, *optional*, defaults to 1.0):
            Weight of each SideNet's loss in `L = L_M + Σ α_i · L_Si` (paper §3).
        freeze_mainnet (`str`, *optional*, defaults to `"all"`):
            `"all"`: train only the SideNets; `"body"`: also the MainNet's last layer; `"none"`: everything, jointly.
        distillation_weight (`float`, *optional*, defaults to 0.0):
            w in `L_S = (1 − w) · CE + w · T² · KL(MainNet ‖ SideNet)`, between 0 and 1; the MainNet is detached.
        distillation_temperature (`float`, *optional*, defaults to 1.0):
            T in the same formula, > 0.
        mainnet_head (`str`, *optional*, defaults to `"own"`):
            `"own"`, or `"mlp"` to replace the MainNet's last layer by a head shaped like the SideNet, as in the paper.
            With `"mlp"` the MainNet is no longer a plain checkpoint of its class.
        calibration (`dict`, *optional*):
            Evidence behind `thresholds`: target, bound, confidence level, number of rows, split, precision.
        blocks (`str`, *optional*):
            Name of the MainNet's list of blocks, or its end (`"encoder.layer"`), if it cannot be found automatically.
        block_shapes (`list[list[int]]`, *optional*):
            Shape of x_c after 1, 2, ... blocks, without the batch axis (and, for text, the sequence axis). Recorded
            when a SideNet is first attached.
        input_size (`list[int]`, *optional*, defaults to the MainNet's own):
            For images, `[channels, height, width]` for recording the shapes and for `"flatten"`.
        input_sidenet (`dict`, *optional*):
            Sizes of the SideNet at exit layer 0: the arguments of [`TextInputSideNet`] or [`ImageInputSideNet`].
            Recorded when it is attached.
        layout (`dict`, *optional*):
            Where the MainNet can be split: what [`Layout`] holds. Observed and recorded when a SideNet is first
            attached, so that a loaded checkpoint is not observed again.
        mainnet_code (`dict`, *optional*):
            Names and SHA-256 of the files of a MainNet that transformers does not have, which travel with the
            checkpoint. Recorded by `from_mainnet(..., trust_remote_code=True)`.
        kwargs:
            Other [`PretrainedConfig`] fields. Reading or writing a field of the MainNet's config, such as `id2label`
            or `pad_token_id`, here reads or writes it there.

    Raises:
        ValueError: a field is invalid, or a name is a misspelling of one of these fields.

    Example:

    ```python
    >>> from transformers import BertConfig
    >>> from hf_sidenet import SideNetConfig

    >>> SideNetConfig(BertConfig(num_hidden_layers=12), exit_layers=[4, 8], thresholds=0.9).thresholds
    [0.9, 0.9]
    ```
    """

    model_type = "sidenet"
    # Spelled as in transformers' own classes.
    sub_configs = {"mainnet_config": AutoConfig}  # pyright: ignore[reportAssignmentType]
    # Left out of `Trainer`'s predictions, so that code for any classifier, which expects `logits` alone, works.
    keys_to_ignore_at_inference = ["exit_index", "exit_logits", "hidden_states", "attentions"]
    # A checkpoint stores every field, so changing a default later does not affect it.
    has_no_defaults_at_init = True
    _auto_class = "AutoConfig"

    if TYPE_CHECKING:
        pooling: OneOrMore[str] = OneOrMore()
        thresholds: OneOrMore[float] = OneOrMore()
        temperatures: OneOrMore[float] = OneOrMore()
        alpha: OneOrMore[float] = OneOrMore()
    else:
        # A type checker sees the base class's types.
        id2label = MainNetField()
        label2id = MainNetField()
        problem_type = MainNetField()
        is_encoder_decoder = MainNetField()
        chunk_size_feed_forward = MainNetField()
        output_hidden_states = MainNetField()
        output_attentions = MainNetField()

    def __init__(
        self,
        mainnet_config: PretrainedConfig | dict | None = None,
        exit_layers: list[int] | None = None,
        sidenet_hidden_size: int = 32,
        pooling: str | list[str] = "auto",
        thresholds: float | list[float] = 1.0,
        temperatures: float | list[float] = 1.0,
        chain: list[list[float]] | None = None,
        alpha: float | list[float] = 1.0,
        freeze_mainnet: str = "all",
        distillation_weight: float = 0.0,
        distillation_temperature: float = 1.0,
        mainnet_head: str = "own",
        calibration: dict | None = None,
        blocks: str | None = None,
        block_shapes: list[list[int]] | None = None,
        input_size: list[int] | None = None,
        input_sidenet: dict[str, Any] | None = None,
        layout: dict[str, Any] | None = None,
        mainnet_code: dict[str, Any] | None = None,
        **kwargs,
    ):
        refuse_misspelled(kwargs)
        self.mainnet_code = None if mainnet_code is None else check_record(mainnet_code)
        self.mainnet_config = as_config(mainnet_config, self.mainnet_code)
        self.exit_layers = [1] if exit_layers is None else exit_layers
        self.sidenet_hidden_size = sidenet_hidden_size
        self.pooling = pooling
        self.thresholds = thresholds
        self.temperatures = temperatures
        self.chain = chain
        self.alpha = alpha
        self.freeze_mainnet = freeze_mainnet
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.mainnet_head = mainnet_head
        self.calibration = calibration
        self.blocks = blocks
        self.block_shapes = block_shapes
        self.input_size = input_size
        self.input_sidenet = input_sidenet
        self.layout = layout
        self._take_labels(kwargs)
        # transformers passes `attn_implementation` down to sub-configs, even None, and a MainNet without one would
        # silently lose its padding mask.
        kwargs.setdefault("attn_implementation", attention_of(self.mainnet_config))
        kwargs.setdefault("dtype", self.mainnet_config.dtype)
        kwargs.setdefault("architectures", [default_architecture(self.mainnet_config)])
        if getattr(self.mainnet_config, "pretrained_cfg", None) is not None:
            # timm's image processing is in config.json itself, where AutoImageProcessor looks for it.
            kwargs.setdefault("image_processor_type", "TimmWrapperImageProcessor")
        for name in SHARED:
            kwargs.setdefault(name, getattr(self.mainnet_config, name))
        output_attentions = kwargs.pop("output_attentions")
        super().__init__(**kwargs)
        # Set last: it is validated against the attention implementation, which the MainNet has only now.
        self.output_attentions = output_attentions
        self.validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """See [`PretrainedConfig.from_dict`].

        Raises:
            ValueError: `config_dict` belongs to a plain model, or is damaged.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"this is the checkpoint of a plain {model_type!r} model without SideNets: its `model_type` is not "
                "'sidenet'. Attach them with `from_mainnet(checkpoint, exit_layers=[...])`."
            )
        own = {name: kwargs.pop(name) for name in SIDENET_FIELDS if name in kwargs}
        refuse_misspelled(kwargs)
        for name in FIXED_BY_WEIGHTS:
            if name in own and own[name] != config_dict.get(name, own[name]):
                raise ArgumentError(
                    name,
                    f"must match the checkpoint's weights, {config_dict[name]!r}",
                    own[name],
                    advice="Add new SideNets with `model.add_exits`.",
                )
        if any(name in own and own[name] != config_dict.get(name) for name in CERTIFIED):
            # The evidence covers the checkpoint's own values only.
            config_dict = {**config_dict, "calibration": None}
        config_dict = {**config_dict, **own}
        check_size(config_dict)
        auto_map = config_dict.get("auto_map", {})
        # AutoTokenizer may list two classes, slow and fast.
        if not isinstance(auto_map, dict) or not all(
            isinstance(kind, str) or name == "AutoTokenizer" for name, kind in auto_map.items()
        ):
            raise ArgumentError("auto_map", "must be a dict of class names", auto_map)
        lost = [name for name in NEEDED if config_dict.get(name) is None]
        if lost:
            raise ValueError(f"config.json must have `{lost[0]}`, got {config_dict.get(lost[0])!r}.")
        labels = {name: kwargs.pop(name) for name in ("num_labels", "id2label", "label2id") if name in kwargs}
        if labels:
            config_dict = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
            code = config_dict.get("mainnet_code")
            mainnet_config = as_config(config_dict["mainnet_config"], None if code is None else check_record(code))
            for name, value in labels.items():
                setattr(mainnet_config, name, value)
            config_dict["mainnet_config"] = mainnet_config
        try:
            return super().from_dict(config_dict, **kwargs)
        # What transformers raises for a field of the wrong type, such as `dtype`.
        except (TypeError, AttributeError, LookupError) as error:
            raise ValueError(f"config.json is damaged: {type(error).__name__}: {error}.") from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """See [`PretrainedConfig.get_config_dict`].

        Raises:
            ValueError: config.json is not a JSON object.
        """
        path = str(pretrained_model_name_or_path)
        try:
            found, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"config.json of {path!r} is damaged: {error}.") from error
        if not isinstance(found, dict):
            raise ValueError(f"config.json of {path!r} must contain a JSON object, got a {type(found).__name__}.")
        return found, kwargs

    def keep_exits_at_inference(self) -> None:
        """Make `Trainer.predict` and `Trainer.evaluate` return `exit_index` and `exit_logits` along with `logits`.

        [`compute_exit_metrics`] calls it. Not saved with the config.
        """
        self.keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    def to_dict(self) -> dict[str, Any]:
        """See [`PretrainedConfig.to_dict`]."""
        repeated = {name: getattr(self, name) for name in REPEATED if hasattr(self, name)}
        fields = {**super().to_dict(), **copy.deepcopy(repeated)}
        fields.pop("keys_to_ignore_at_inference", None)
        return fields

    def _get_generation_parameters(self) -> dict[str, Any]:
        # transformers refuses to save a config with arguments of `generate`, but some are fields of the MainNet's own.
        return generation_parameters(self.mainnet_config)

    def to_diff_dict(self) -> dict[str, Any]:
        """See [`PretrainedConfig.to_diff_dict`].

        Drops the path that the MainNet was loaded from, which transformers drops at the top level only.
        """
        fields = super().to_diff_dict()
        fields.get("mainnet_config", {}).pop("_name_or_path", None)
        return fields

    def __setattr__(self, name: str, value: Any) -> None:
        """Normalize per-SideNet and per-exit fields; pass MainNet fields on to its config."""
        if name == "exit_layers":
            value = checked_exit_layers(value, self.__dict__.get("block_shapes"))
        elif name in PER_EXIT:
            value = PER_EXIT[name](value, len(self.exit_layers))
        elif self._is_mainnets(name):
            setattr(self.mainnet_config, name, value)
            return
        if name in CERTIFIED and self._is_other(name, value):
            # The evidence covers the old value only.
            self.calibration = None
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Look up fields that this config does not have in the MainNet's config."""
        if self._is_mainnets(name):
            return getattr(self.mainnet_config, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _is_other(self, name: str, value: Any) -> bool:
        if name == "id2label":
            former = self.__dict__["mainnet_config"].id2label
            return value is not None and former is not None and by_index(value) != by_index(former)
        return self.__dict__.get(name, value) != value

    def _is_mainnets(self, name: str) -> bool:
        # Not set yet while copying.
        mainnet_config = self.__dict__.get("mainnet_config")
        if mainnet_config is None or name.startswith("_") or name in OUTER or name in SIDENET_FIELDS:
            return False
        return not hasattr(type(self), name) and hasattr(mainnet_config, name)

    @property
    def num_exits(self) -> int:
        """Number of exits: the SideNets, then the MainNet."""
        return len(self.exit_layers) + 1

    def validate(self) -> None:
        """Check every field and normalize it (one value per SideNet or exit).

        Raises:
            ValueError: a field is invalid; the message names the field, the rule and the value.
        """
        shapes = self.block_shapes
        if shapes is not None and not (isinstance(shapes, list) and all(map(is_shape, shapes))):
            raise ArgumentError("block_shapes", "must be a list of shapes, lists of integers ≥ 1", shapes)
        for name in ("exit_layers", *PER_EXIT):
            setattr(self, name, getattr(self, name))
        weight, temperature = self.distillation_weight, self.distillation_temperature
        (self.distillation_weight,) = numbers("distillation_weight", weight, 1, "in [0, 1]", lambda x: 0 <= x <= 1)
        (self.distillation_temperature,) = numbers("distillation_temperature", temperature, 1, "> 0", lambda x: x > 0)
        one_of("freeze_mainnet", self.freeze_mainnet, ("none", "body", "all"))
        one_of("mainnet_head", self.mainnet_head, ("own", "mlp"))
        size = self.sidenet_hidden_size
        if not is_positive(size):
            raise ArgumentError("sidenet_hidden_size", "must be an integer ≥ 1", size)
        size = self.input_size
        if size is not None and (
            not isinstance(size, list | tuple) or len(size) != 3 or not all(map(is_positive, size))
        ):
            raise ArgumentError("input_size", "must be [channels, height, width], integers ≥ 1", size)
        self.input_size = None if size is None else list(size)
        check_input_sidenet(self.input_sidenet)
        for name, kind in (("calibration", dict), ("blocks", str), ("auto_map", dict), ("architectures", list)):
            value = getattr(self, name, None)
            if value is not None and not isinstance(value, kind):
                raise ArgumentError(name, f"must be a {kind.__name__} or None", value)
        task_of(self)[0].check_config(self)

    def _take_labels(self, kwargs: dict[str, Any]) -> None:
        """Move labels to the MainNet's config, whose number of labels must agree."""
        mainnet = self.mainnet_config
        for name in ("id2label", "label2id"):
            if kwargs.get(name) is not None and not isinstance(kwargs[name], dict):
                raise ArgumentError(name, "must be a dict or None", kwargs[name])
        num_labels = kwargs.pop("num_labels", None)
        if kwargs.get("id2label") is not None:
            num_labels = len(kwargs["id2label"])
            if num_labels == mainnet.num_labels:
                mainnet.id2label = by_index(kwargs["id2label"])
                mainnet.label2id = {label: index for index, label in mainnet.id2label.items()}
        if num_labels not in (None, mainnet.num_labels):
            raise ValueError(
                f"MainNet and SideNets must have the same number of labels, got {mainnet.num_labels} from "
                f"`mainnet_config` and {num_labels} from `num_labels` or `id2label`."
            )
        if kwargs.get("label2id") is not None:
            mainnet.label2id = kwargs["label2id"]
        if kwargs.get("problem_type") is not None:
            mainnet.problem_type = kwargs["problem_type"]
        if mainnet.id2label is None:
            mainnet.id2label = {i: f"LABEL_{i}" for i in range(cast(int, mainnet.num_labels))}
            mainnet.label2id = {label: i for i, label in mainnet.id2label.items()}
        kwargs.update(id2label=mainnet.id2label, label2id=mainnet.label2id, problem_type=mainnet.problem_type)


SIDENET_FIELDS = tuple(SideNetConfig.__init__.__annotations__)
# Standard config fields that are stored in the MainNet's config.
SHARED = tuple(name for name, value in vars(SideNetConfig).items() if isinstance(value, MainNetField))


def refuse_misspelled(kwargs: dict[str, Any]) -> None:
    """Reject names that can only be misspellings of [`SideNetConfig`]'s own fields.

    Raises:
        ValueError: a name is one.
    """
    for name in kwargs:
        near = difflib.get_close_matches(name, SIDENET_FIELDS, n=1, cutoff=0.84)
        if near or name.startswith(OWN_PREFIXES):
            hint = near or difflib.get_close_matches(name, SIDENET_FIELDS, n=1, cutoff=0) or ["exit_layers"]
            raise ValueError(f"SideNetConfig has no field `{name}`. Did you mean `{hint[0]}`?")
