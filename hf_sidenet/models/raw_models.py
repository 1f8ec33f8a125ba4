# SPDX-License-Identifier: Apache-2.0
"""Classifiers that are not from transformers as MainNets: of timm, of torchvision, and any other `nn.Module`."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .errors import ArgumentError
from .mainnet import evaluating
from .modalities import DEFAULT_IMAGE_SIZE, DEFAULT_VOCABULARY, IMAGE, TEXT, Modality
from .wrapped_network import NETWORKS, TORCHVISION, NetworkConfig, logits_of, torchvision_models


# Arguments of `from_mainnet` and `attach` about networks that are not from transformers.
NETWORK_ARGUMENTS = ("example_inputs", "id2label", "code")
# Architectures of torchvision to compare a model with.
TRIED = 3


def is_raw(mainnet: Any) -> bool:
    """Return whether this is no classifier of transformers, so that [`as_mainnet`] wraps it, or refuses it."""
    return not isinstance(mainnet, str | os.PathLike | PreTrainedModel)


def network_arguments(mainnet: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of [`as_mainnet`] out of those of `from_mainnet`.

    Args:
        mainnet (`str`, `PreTrainedModel` or `nn.Module`): the classifier.
        kwargs (`dict`): changed in place.
    """
    # Of a classifier of transformers, `id2label` is a field of its config.
    names = NETWORK_ARGUMENTS if is_raw(mainnet) else set(NETWORK_ARGUMENTS) - {"id2label"}
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def as_mainnet(
    mainnet: Any,
    *,
    example_inputs: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
    id2label: Mapping[int, str] | None = None,
    code: str | None = None,
) -> str | os.PathLike | PreTrainedModel:
    """Return what SideNets attach to; a network that is not from transformers is wrapped, not copied.

    Args:
        mainnet (`str`, `PreTrainedModel` or `nn.Module`): the classifier.
        example_inputs (`torch.Tensor` or `dict[str, torch.Tensor]`, *optional*):
            A batch of its inputs, images of shape `(rows, channels, height, width)` or token ids of shape
            `(rows, tokens)`, by name if it takes them by name. Needed unless the network is from timm or torchvision.
        id2label (`dict[int, str]`, *optional*): names of its classes.
        code (`str`, *optional*): what builds it, see [`factory_code`]; only whether it is given matters here.

    Raises:
        ValueError: it is something else, or an argument is missing or does not fit.
    """
    if not is_raw(mainnet):
        if example_inputs is not None:
            raise ArgumentError("example_inputs", "must be given only for a network that is not from transformers")
        return mainnet
    if not isinstance(mainnet, nn.Module) or hasattr(mainnet, "peft_config"):
        raise ArgumentError(
            "mainnet", "must be a folder, a Hub id, a PreTrainedModel or an nn.Module", type(mainnet).__name__
        )
    if isinstance(getattr(mainnet, "pretrained_cfg", None), dict) and code is None:
        wrapped = wrap_timm(mainnet)
    elif type(mainnet).__module__.startswith("torchvision.models.") and code is None:
        wrapped = wrap_torchvision(mainnet, example_inputs)
    else:
        wrapped = wrap_network(mainnet, example_inputs)
    if id2label is not None:
        names = {int(key): str(name) for key, name in id2label.items()}
        last = cast(int, wrapped.config.num_labels) - 1
        if sorted(names) != list(range(last + 1)):
            raise ArgumentError("id2label", f"must have the keys 0 to {last}", dict(id2label))
        wrapped.config.id2label, wrapped.config.label2id = names, {name: key for key, name in names.items()}
    return wrapped


def wrap_network(
    network: nn.Module,
    example_inputs: torch.Tensor | Mapping[str, torch.Tensor] | None,
    factory: str | None = None,
    factory_kwargs: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Wrap a network that maps a batch to logits, with its weights.

    Args:
        network (`nn.Module`): the network.
        example_inputs (`torch.Tensor` or `dict[str, torch.Tensor]`): a batch of its inputs.
        factory (`str`, *optional*): what builds it, see [`NetworkConfig`].
        factory_kwargs (`dict`, *optional*): arguments of the factory.

    Raises:
        ValueError: the inputs are none that SideNets know, or the network returns no logits for them.
    """
    inputs, modality = _named(example_inputs)
    by_name = isinstance(example_inputs, Mapping)
    with evaluating(network), torch.no_grad():
        logits = logits_of(network(**inputs) if by_name else network(*inputs.values()))
    rows = len(next(iter(inputs.values())))
    if logits.ndim != 2 or len(logits) != rows or logits.shape[1] < 2:
        raise ArgumentError("mainnet", f"must return logits of shape ({rows}, num_labels ≥ 2)", tuple(logits.shape))
    fields: dict[str, Any] = {"num_labels": logits.shape[1], "input_names": list(inputs), "by_name": by_name}
    main = inputs[modality.main_inputs[0]]
    if modality is IMAGE:
        fields["num_channels"], *fields["image_size"] = main.shape[1:]
    else:
        tables = [part.num_embeddings for part in network.modules() if isinstance(part, nn.Embedding)]
        fields["vocab_size"] = max(tables, default=DEFAULT_VOCABULARY)
    kind = next(each for each in NETWORKS.values() if each.main_input_name == modality.main_inputs[0])
    reference = f"{kind.__module__.rpartition('.')[-1]}."
    config = NetworkConfig(
        factory=factory,
        factory_kwargs=factory_kwargs,
        auto_map={
            "AutoConfig": f"{reference}{NetworkConfig.__name__}",
            str(kind._auto_class): f"{reference}{kind.__name__}",
        },
        **fields,
    )
    weights = next((each for each in network.parameters() if each.is_floating_point()), None)
    if weights is not None:
        config.dtype = weights.dtype
    return kind(config, network)


def _named(example_inputs: Any) -> tuple[dict[str, torch.Tensor], Modality]:
    """Return the inputs by the names that models of transformers have for them, and their modality."""
    rule = (
        "must be a batch of the network's inputs: images, floats of shape (rows, channels, height, width), or token "
        "ids, integers of shape (rows, tokens); a dict with `pixel_values` or `input_ids` if it takes them by name"
    )
    if isinstance(example_inputs, torch.Tensor):
        is_image = example_inputs.is_floating_point() and example_inputs.ndim == 4
        is_text = not example_inputs.is_floating_point() and example_inputs.ndim == 2
        if is_image or is_text:
            modality = IMAGE if is_image else TEXT
            return {modality.main_inputs[0]: example_inputs}, modality
        raise ArgumentError("example_inputs", f"{rule}, got {example_inputs.dtype} {tuple(example_inputs.shape)}")
    if isinstance(example_inputs, Mapping) and all(isinstance(each, torch.Tensor) for each in example_inputs.values()):
        for modality in (IMAGE, TEXT):
            if modality.main_inputs[0] in example_inputs:
                return dict(example_inputs), modality
        raise ArgumentError("example_inputs", rule, list(example_inputs))
    raise ArgumentError("example_inputs", rule, type(example_inputs).__name__)


def wrap_torchvision(model: nn.Module, example_inputs: Any = None) -> PreTrainedModel:
    """Wrap a classifier of `torchvision.models`, with its weights; the name of its architecture is found.

    Args:
        model (`nn.Module`): the classifier. Its last layer may be another, with other classes.
        example_inputs (`torch.Tensor`, *optional*): images that it reads, by default of its own size or 224 px.

    Raises:
        ValueError: no architecture of torchvision has these weights and these answers.
    """
    if example_inputs is None:
        weight = next(each for each in model.parameters() if each.ndim == 4)
        size = getattr(model, "image_size", DEFAULT_IMAGE_SIZE)
        generator = torch.Generator().manual_seed(0)
        example_inputs = torch.randn(2, weight.shape[1], size, size, generator=generator).to(
            weight.device, weight.dtype
        )
    wrapped = wrap_network(model, example_inputs)
    config: Any = wrapped.config
    expected = {name: each.shape for name, each in model.state_dict().items()}
    for name, kwargs in _candidates(model, config.num_labels):
        twin = torchvision_models().get_model(name, weights=None, **kwargs)
        if {key: each.shape for key, each in twin.state_dict().items()} == expected and _answers_alike(
            model, twin, example_inputs
        ):
            config.factory, config.factory_kwargs = f"{TORCHVISION}{name}", kwargs
            return wrapped
    raise ArgumentError(
        "mainnet",
        f"must be what torchvision.models builds with {config.num_labels} classes, got a {type(model).__name__} with "
        "other parts",
        advice="For a changed network, pass what builds it: `code='my_net.py:build'`, `trust_remote_code=True` and "
        "`example_inputs`.",
    )


def _candidates(model: nn.Module, num_labels: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and arguments of architectures that may be that of a model, those of the most similar size first."""
    models = torchvision_models()
    size, last = 0, 0
    for parameter in model.parameters():
        size += parameter.numel()
        last = parameter[0].numel() + 1 if parameter.ndim > 1 else last
    # With the classes of ImageNet, for which the sizes are known.
    size += (1000 - num_labels) * last

    def difference(name: str) -> int:
        return abs(models.get_model_weights(name).DEFAULT.meta["num_params"] - size)

    # Those of this model that a builder takes, under the names of attributes.
    found = {name: getattr(model, name) for name in ("aux_logits", "transform_input") if hasattr(model, name)}
    if "aux_logits" in found:
        found["init_weights"] = False
    kind = type(model).__module__
    names = [name for name in models.list_models(module=models) if models.get_model_builder(name).__module__ == kind]
    # Some cannot be built on "meta", and the largest have hundreds of millions of parameters.
    for name in sorted(names, key=difference)[:TRIED]:
        yield name, {"num_classes": num_labels, **found}


@torch.no_grad()
def _answers_alike(model: nn.Module, twin: nn.Module, images: torch.Tensor) -> bool:
    """Return whether a network with a model's weights gives its answers."""
    twin.to(images.device, images.dtype).eval().load_state_dict(model.state_dict())
    with evaluating(model):
        return torch.equal(logits_of(twin(images)), logits_of(model(images)))


def wrap_timm(model: nn.Module) -> PreTrainedModel:
    """Wrap a timm classifier, not a copy of it, with its weights, class names and image processing.

    Args:
        model (`nn.Module`): a model from `timm.create_model`.

    Raises:
        ValueError: it has no classes, or was made with arguments that it does not record.
    """
    # Only here: it imports timm.
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    given: Any = model.pretrained_cfg
    about: dict[str, Any] = dict(given)
    num_classes = getattr(model, "num_classes", 0)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ArgumentError("mainnet", "must be a classifier, with `num_classes` ≥ 2", num_classes)
    arguments: dict[str, Any] = {}
    channels = _in_channels(model, about.get("first_conv"))
    if channels is not None and about.get("input_size") is not None and channels != about["input_size"][0]:
        arguments["in_chans"] = channels
    fields: dict[str, Any] = {"num_labels": num_classes, "pretrained_cfg": about, "model_args": arguments or None}
    config = TimmWrapperConfig(architecture=about["architecture"], **fields)
    names = about.get("label_names")
    if names is not None and len(names) == num_classes:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    with torch.device("meta"):
        wrapper = TimmWrapperForImageClassification(config)
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in each.state_dict().items()}
        for each in (wrapper.timm_model, model)
    )
    differs = next((name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)), None)
    if differs is not None:
        raise ArgumentError(
            "mainnet",
            f"must be what timm makes of {about['architecture']!r} and {num_classes} classes, but {differs!r} is "
            f"{found.get(differs, 'missing')}, not {expected.get(differs, 'there')}",
            advice="Wrap it in a TimmWrapperForImageClassification whose config has the other arguments as "
            "`model_args`.",
        )
    wrapper.timm_model = model
    wrapper.config.dtype = next(model.parameters()).dtype
    return wrapper.train(model.training)


def _in_channels(model: nn.Module, first_conv: Any) -> int | None:
    """Return the number of channels that the first convolution reads; timm names it, or several."""
    name = first_conv[0] if isinstance(first_conv, list | tuple) and first_conv else first_conv
    if not isinstance(name, str):
        return None
    module = dict(model.named_modules()).get(name)
    weight = getattr(module, "weight", None)
    return None if weight is None else weight.shape[1] * getattr(module, "groups", 1)
