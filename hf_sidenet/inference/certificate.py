# SPDX-License-Identifier: Apache-2.0
"""What θ was certified for, and whether that is what answers now.

Evidence is about one set of weights, θ, temperatures, classes, precision and way to read rows. All of it is noted
beside the evidence, as `certified`, so that nothing is said of a model that has become another one since.
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
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from .precision import number_format, precision_of
from .protocols import Configured, StageChain


# In the order in which a difference is told: the first explains those after it.
SETTINGS = {
    "precision": "its precision",
    "exit_layers": "the places of its SideNets",
    "pooling": "the pooling of its SideNets",
    "classes": "its classes",
    "thresholds": "θ",
    "temperatures": "its temperatures",
    "max_length": "the length at which texts are cut",
}


def certificate(
    served: Configured, processor: Processor | None = None, max_length: int | None = None
) -> dict[str, Any]:
    """What answers depend on, of a model at its own θ: `certified` in the evidence behind θ.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): what answers.
        processor (tokenizer or image processor, *optional*): that reads rows; `None` where model inputs came.
        max_length (`int`, *optional*): tokens at which texts are cut; `None` where they are not.

    Raises:
        ValueError: some of its weights are not loaded.
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
    """Why the evidence behind θ is not about what answers now. `None` where it is, or where there is none.

    All weights are read.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): what answers, with its config.
        processor (tokenizer or image processor, *optional*): that reads rows; not compared where it is `None`.
        max_length (`int`, *optional*): tokens at which texts are cut; not compared where it is `None`.
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
        return "the evidence does not say for which weights it was found"
    now = _settings(served, max_length)
    # Another runtime in one number format rounds as another batch does.
    same_format = number_format(now["precision"]) == number_format(str(certified.get("precision")))
    for name, what in SETTINGS.items():
        if name == "max_length" and None in (certified.get(name), max_length):
            continue
        if certified.get(name) != now[name] and not (name == "precision" and same_format):
            return f"{what} changed: {certified.get(name)} when θ was certified, {now[name]} now"
    fields, mainnet = certified.get("mainnet"), answering_fields(served.config.mainnet_config)
    # Another version of transformers has some fields more or less.
    for name, value in fields.items() if isinstance(fields, dict) else ():
        if mainnet.get(name, value) != value:
            return f"`{name}` of its MainNet changed: {value} when θ was certified, {mainnet[name]} now"
    if processor is not None and certified.get("processor") not in (None, fingerprint_processor(processor)):
        return "the tokenizer or image processor is not the one that read rows when θ was certified"
    try:
        weights = _weights(served)
    except ValueError:
        return "some of its weights are not loaded, so that they cannot be compared"
    if None in (weights, certified.get("weights")):
        return "its weights cannot be compared"
    # An exported folder answers as the model that it was exported from, up to the rounding of another runtime.
    source = getattr(getattr(served, "manifest", None), "weights", None)
    return None if certified["weights"] in (weights, source) else "its weights are not those for which θ was certified"


def length_of(model: SideNetPreTrainedModel, processor: Processor | None, max_length: int | None = None) -> int | None:
    """Tokens at which a model's texts are cut; `None` for images, and where model inputs come.

    Args:
        model ([`SideNetPreTrainedModel`]): that answers.
        processor (tokenizer or image processor, *optional*): that reads rows.
        max_length (`int`, *optional*): what was asked for.
    """
    is_read = model.modality.has_tokens and processor is not None
    tokenizer = cast("PreTrainedTokenizerBase | None", processor)
    return text_limit(tokenizer, longest_text(model.mainnet), max_length) if is_read else None


def source_weights(model: SideNetPreTrainedModel) -> str:
    """Fingerprint of the weights that all precisions of a model come from: of a cast, those that it was cast from.

    Args:
        model ([`SideNetPreTrainedModel`]): with the evidence behind its θ, if it has any.
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
    """Write temperatures, θ and the evidence into the config of what was calibrated.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): its config is changed in place.
        calibration ([`Calibration`]): with a chosen point.
        processor (tokenizer or image processor, *optional*): that read the rows.
        max_length (`int`, *optional*): tokens at which texts were cut; `None` for images.
        about (`Any`): what the evidence says beside it: the rows, the reference.
    """
    config, chosen = served.config, calibration.chosen_setting
    assert chosen is not None  # See `calibration`.
    config.thresholds, config.temperatures = chosen
    config.calibration = calibration.evidence(
        **about,
        certified=certificate(served, processor, max_length),
        precision=precision_of(served),
        device=served.device.type,
        attn_implementation=config._attn_implementation,
        versions=versions(*([] if isinstance(served, PreTrainedModel) else ["onnxruntime"])),
    )


def other_weights(reference: PreTrainedModel | None, mainnet: PreTrainedModel) -> str | None:
    """Fingerprint of a classifier to compare with, where it is another one than the MainNet inside."""
    # Most often it is that very module, which need not be read.
    if reference is None or reference is mainnet:
        return None
    found = fingerprint_weights(reference)
    return None if found == fingerprint_weights(mainnet) else found


def _settings(served: Configured, max_length: int | None) -> dict[str, Any]:
    config = served.config
    return {
        "precision": precision_of(served),
        "exit_layers": list(config.exit_layers),
        "pooling": list(config.pooling),
        "classes": label_names(config),
        "thresholds": list(config.thresholds),
        "temperatures": list(config.temperatures),
        "max_length": max_length,
    }


def _weights(served: Configured) -> str | None:
    """What stands for the weights: of an exported chain the hashes of its files, `None` of one that does not tell."""
    manifest: Any = getattr(served, "manifest", None)
    if manifest is not None:
        files = json.dumps(manifest.sha256, sort_keys=True)
        return hashlib.blake2b(files.encode(), digest_size=16).hexdigest()
    model = served if isinstance(served, nn.Module) else getattr(served, "model", None)
    return None if model is None else fingerprint_weights(model)
