# SPDX-License-Identifier: Apache-2.0
"""What θ was certified for, and whether that still describes the model that answers.

Evidence covers one set of weights, θ, temperatures, classes, precision and way to read rows. All of these are stored
with the evidence, as `certified`, so that it is never applied to a model that has changed since.
"""

import hashlib
import json
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..calibration import Calibration, check_evidence
from ..data.formats import Processor
from ..data.limits import longest_text, text_limit
from ..evaluation.provenance import versions
from ..io.fingerprint import answering_fields, fingerprint_processor, fingerprint_weights
from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import has_weights
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from ..models.transformers_private import attention_of
from .precision import number_format, precision_of
from .protocols import Configured, StageChain


# In the order of reporting: an earlier difference explains the later ones.
SETTINGS = {
    "precision": "its precision",
    "exit_layers": "the positions of its SideNets",
    "pooling": "the pooling of its SideNets",
    "classes": "its classes",
    "thresholds": "θ",
    "temperatures": "its temperatures",
    "chain": "how its SideNets build on each other",
    "max_length": "the length at which texts are truncated",
}


def certificate(
    served: Configured, processor: Processor | None = None, max_length: int | None = None
) -> dict[str, Any]:
    """Return everything that a model's answers depend on at its own θ: `certified` in the evidence behind θ.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): the model or chain.
        processor (tokenizer or image processor, *optional*): processor of the rows; `None` for model inputs.
        max_length (`int`, *optional*): tokens at which texts are truncated; `None` if they are not.

    Raises:
        ValueError: some weights are not loaded.
    """
    return {
        **_settings(served, max_length),
        "mainnet": answering_fields(served.config.mainnet_config),
        "processor": None if processor is None else fingerprint_processor(processor),
        "weights": _weights(served),
    }


def why_not_certified(
    served: Configured, processor: Processor | None = None, max_length: int | None = None
) -> str | None:
    """Return why the evidence behind θ does not cover the model that answers; `None` if it does, or there is none.

    Reads all weights.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): the model or chain, with its config.
        processor (tokenizer or image processor, *optional*): processor of the rows; `None` skips the comparison.
        max_length (`int`, *optional*): tokens at which texts are truncated; `None` skips the comparison.
    """
    evidence = served.config.calibration
    if evidence is None:
        return None
    try:
        check_evidence(evidence)
    except ValueError as error:
        return f"the evidence is damaged: {error}".rstrip(".")
    certified = evidence.get("certified")
    if not isinstance(certified, dict):
        return "the evidence does not say which weights it covers"
    now = _settings(served, max_length)
    # The same number format in another runtime rounds differently only as another batch size would.
    same_format = number_format(now["precision"]) == number_format(str(certified.get("precision")))
    for name, what in SETTINGS.items():
        if name == "max_length" and None in (certified.get(name), max_length):
            continue
        if certified.get(name) != now.get(name) and not (name == "precision" and same_format):
            return f"{what} changed: {certified.get(name)} when θ was certified, {now.get(name)} now"
    fields, mainnet = certified.get("mainnet"), answering_fields(served.config.mainnet_config)
    # Fields come and go between versions of transformers.
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if mainnet.get(name, value) != value:
            return f"`{name}` of its MainNet changed: {value} when θ was certified, {mainnet[name]} now"
    if processor is not None and certified.get("processor") not in (None, fingerprint_processor(processor)):
        return "the tokenizer or image processor is not the one with which θ was certified"
    try:
        weights = _weights(served)
    except ValueError:
        return "some of its weights are not loaded and cannot be compared"
    if None in (weights, certified.get("weights")):
        return "its weights cannot be compared"
    # An exported folder answers like its source model, up to the rounding of the runtime.
    source = getattr(getattr(served, "manifest", None), "weights", None)
    return None if certified["weights"] in (weights, source) else "its weights are not those for which θ was certified"


def length_of(model: SideNetPreTrainedModel, processor: Processor | None, max_length: int | None = None) -> int | None:
    """Return the number of tokens at which a model's texts are truncated; `None` for images and model inputs.

    Args:
        model ([`SideNetPreTrainedModel`]): the model.
        processor (tokenizer or image processor, *optional*): processor of the rows.
        max_length (`int`, *optional*): requested limit.
    """
    is_read = model.modality.has_tokens and processor is not None
    tokenizer = cast("PreTrainedTokenizerBase | None", processor)
    return text_limit(tokenizer, longest_text(model.mainnet), max_length) if is_read else None


def source_weights(model: SideNetPreTrainedModel) -> str:
    """Return the fingerprint of the weights that all precisions of a model derive from, before any cast.

    Args:
        model ([`SideNetPreTrainedModel`]): the model, with the evidence behind its θ if it has any.
    """
    evidence, own = model.config.calibration or {}, fingerprint_weights(model)
    is_certified = (evidence.get("certified") or {}).get("weights") == own
    return evidence.get("source_weights", own) if is_certified else own


def set_calibration(
    served: SideNetPreTrainedModel | StageChain,
    calibration: Calibration,
    processor: Processor | None,
    max_length: int | None,
    **about: Any,
) -> None:
    """Write temperatures, θ and the evidence to the config of a calibrated model or chain.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): its config is changed in place.
        calibration ([`Calibration`]): calibration with a chosen point.
        processor (tokenizer or image processor, *optional*): processor of the rows.
        max_length (`int`, *optional*): tokens at which texts were truncated; `None` for images.
        about (`Any`): further fields of the evidence: the rows, the reference.
    """
    config, chosen = served.config, calibration.chosen_setting
    assert chosen is not None  # See `calibration`.
    config.thresholds, config.temperatures = chosen
    config.calibration = calibration.evidence(
        **about,
        certified=certificate(served, processor, max_length),
        precision=precision_of(served),
        device=served.device.type,
        attn_implementation=attention_of(config),
        versions=versions(*([] if isinstance(served, PreTrainedModel) else ["onnxruntime"])),
    )


def other_weights(reference: PreTrainedModel | None, mainnet: PreTrainedModel) -> str | None:
    """Return the fingerprint of a reference classifier, or `None` if it is the MainNet inside."""
    # Usually it is the same module, whose weights need not be read.
    if reference is None or reference is mainnet:
        return None
    found = fingerprint_weights(reference)
    return None if found == fingerprint_weights(mainnet) else found


def _settings(served: Configured, max_length: int | None) -> dict[str, Any]:
    config = served.config
    # Evidence from before there were chains says nothing of them.
    chain = {"chain": chain_of(config)} if has_weights(chain_of(config)) else {}
    return {
        **chain,
        "precision": precision_of(served),
        "exit_layers": list(config.exit_layers),
        "pooling": list(config.pooling),
        "classes": label_names(config),
        "thresholds": list(config.thresholds),
        "temperatures": list(config.temperatures),
        "max_length": max_length,
    }


def _weights(served: Configured) -> str | None:
    """Fingerprint the weights, or the file hashes of an exported chain; `None` if neither is available."""
    manifest: Any = getattr(served, "manifest", None)
    if manifest is not None:
        files = json.dumps(manifest.sha256, sort_keys=True)
        return hashlib.blake2b(files.encode(), digest_size=16).hexdigest()
    model = served if isinstance(served, nn.Module) else getattr(served, "model", None)
    return None if model is None else fingerprint_weights(model)
