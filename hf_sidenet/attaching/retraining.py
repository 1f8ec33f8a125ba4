# SPDX-License-Identifier: Apache-2.0
"""Retrain the SideNets of a checkpoint on what they will read: x_c in another precision, or of an exported folder.

x_c in int8 is not the float32 x_c that the SideNets were trained on. The MainNet's weights and the places of the
SideNets stay; a SideNet before the first block reads no x_c and stays too.

This does not undo rounding in the MainNet: see docs/concepts/calibration.md for what it can and cannot win back.
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import PreTrainedModel
from transformers.utils import logging

from ..data.rows import SomeRows
from ..export.onnx import OnnxStages
from ..export.onnx_sidenets import replace_sidenets
from ..export.programs import ExportError
from ..inference.protocols import StageChain
from ..io.cache import default_cache
from ..io.fingerprint import fingerprint_weights
from ..measurement.inputs import model_inputs
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.gate import sharing_weights
from ..models.mainnet import evaluating
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.sidenet import SideNet, pool, pooling_mask
from ..models.tasks import NO_LABEL
from ..training.features import Candidate, by_length, cache_features
from ..training.heads import HeadData, HeadTraining, sidenet_logits, train_heads


# Largest difference of a retrained SideNet's logits inside an exported folder, as a fraction of the largest.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}


def check_retraining(config: SideNetConfig, settings: HeadTraining, stages: StageChain | None, has_rows: bool) -> None:
    """Reject a request to retrain SideNets that cannot be met, before doing the work.

    Args:
        config ([`SideNetConfig`]): config of the checkpoint.
        settings ([`HeadTraining`]): training settings.
        stages ([`StageChain`], *optional*): stages that serve.
        has_rows (`bool`): whether there are training rows.

    Raises:
        ValueError: it cannot.
    """
    if not has_rows:
        raise ArgumentError("train", "must be given with `retrain`: the SideNets are trained on these rows, got None")
    if settings.hidden_size != config.sidenet_hidden_size:
        rule = f"must have the `hidden_size` of the checkpoint's SideNets, {config.sidenet_hidden_size}"
        raise ArgumentError("retrain", f"{rule}, got {settings.hidden_size}")
    if not any(layer > 0 for layer in config.exit_layers):
        raise ArgumentError("retrain", "needs a SideNet after a block: one before the first block reads no x_c")
    if stages is not None and not isinstance(stages, OnnxStages):
        raise ArgumentError(
            "stages",
            "must be `OnnxStages` to retrain their SideNets; for another runtime, retrain the checkpoint in its "
            f"precision and export it again, got {type(stages).__name__}",
        )


def trained_precision(before: Mapping[str, Any]) -> str | None:
    """Return the precision of the x_c that a checkpoint's SideNets were trained on; `None` if it is not known.

    Args:
        before (`Mapping[str, Any]`): the evidence so far; empty if there is none.
    """
    # Evidence of earlier versions does not say so, but then nothing was retrained.
    known = "reference_precision" if before.get("reference") == "stored" else "precision"
    return before.get("sidenet_precision") or before.get(known)


def places_after_blocks(served: SideNetPreTrainedModel | StageChain) -> dict[int, Candidate]:
    """Return the place of each SideNet after a block, by its index.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): the model or chain.
    """
    config, shapes = served.config, served.config.block_shapes
    assert shapes is not None  # Recorded when SideNets are attached.
    places = {}
    for index, (layer, pooling) in enumerate(zip(config.exit_layers, config.pooling, strict=True)):
        if layer > 0:
            # The first candidate is what `"auto"` stands for.
            named = served.modality.candidate_poolings(shapes[layer - 1])[0] if pooling == "auto" else pooling
            places[index] = Candidate(layer, named)
    return places


def retrain_sidenets(
    served: SideNetPreTrainedModel | StageChain,
    learning: SomeRows,
    stopping: SomeRows,
    settings: HeadTraining,
    *,
    teacher: PreTrainedModel | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> dict[int, SideNet]:
    """Train new SideNets on the features that a model or chain computes as it serves.

    Args:
        served ([`SideNetPreTrainedModel`] or [`StageChain`]): the model or chain; it is not changed.
        learning ([`SomeRows`]): training rows; without labels, the teacher's answers are the labels.
        stopping ([`SomeRows`]): rows for early stopping, which must not certify.
        settings ([`HeadTraining`]): training settings.
        teacher (`PreTrainedModel`, *optional*): classifier to distill, in its own precision; by default the MainNet
            inside a served model.
        batch_size (`int`, *optional*, defaults to 32): rows per call of the MainNet.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Returns:
        `dict[int, SideNet]`: for each SideNet after a block, by index, its replacement in float32 on the CPU.
    """
    places = places_after_blocks(served)
    learn, stop = (
        _head_data(served, part, list(places.values()), teacher, batch_size, progress) for part in (learning, stopping)
    )
    found = train_heads(learn, stop, settings, progress=progress)
    return {index: found[candidate] for index, candidate in places.items()}


def with_sidenets(model: SideNetPreTrainedModel, sidenets: Mapping[int, SideNet]) -> SideNetPreTrainedModel:
    """Copy a model with other SideNets, sharing all other weights. There is no evidence behind its θ.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; it is not changed.
        sidenets (`Mapping[int, SideNet]`): SideNets by index, cast to the dtype and device of those they replace.
    """
    made = sharing_weights(model).eval()
    for index, sidenet in sidenets.items():
        like = cast(SideNet, model.sidenets[index]).norm.weight
        made.sidenets[index] = copy.deepcopy(sidenet).to(like.device, like.dtype).eval()
    made.config.calibration = None
    return made


def stages_with_sidenets(
    stages: OnnxStages, model: SideNetPreTrainedModel, sidenets: Mapping[int, SideNet], rows: SomeRows
) -> OnnxStages:
    """Copy an exported folder with other SideNets, and open the copy.

    The copy is in a temporary folder, which is removed along with the returned chain.

    Args:
        stages ([`OnnxStages`]): the chain; its folder is not changed.
        model ([`SideNetPreTrainedModel`]): the checkpoint that it was exported from.
        sidenets (`Mapping[int, SideNet]`): SideNets by index.
        rows ([`SomeRows`]): rows whose first batch is used to check the copy.

    Raises:
        ExportError: a SideNet cannot be replaced, or answers differently inside the copy.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        weights = fingerprint_weights(with_sidenets(model, sidenets))
        made = replace_sidenets(stages, sidenets, weights, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    batch = rows.collate_fn([rows.dataset[i] for i in range(min(8, len(rows.labels)))])
    features, logits = _run(made, batch, len(made) - 1)
    for index, candidate in places_after_blocks(made).items():
        expected = sidenet_logits(sidenets[index], features[candidate])
        scale = expected.abs().max().clamp(min=1.0)
        difference = float((logits[index].float() - expected).abs().max() / scale)
        if not difference <= TOLERANCES[made.dtype]:
            raise ExportError(
                f"the SideNet of stage {index} answers differently inside the exported folder, by {difference:.1e} of "
                "its largest logit."
            )
    return made


def _head_data(
    served: SideNetPreTrainedModel | StageChain,
    part: SomeRows,
    candidates: list[Candidate],
    teacher: PreTrainedModel | None,
    batch_size: int,
    progress: bool,
) -> HeadData:
    answers = None if teacher is None else _answers(teacher, part, batch_size, progress)
    if isinstance(served, PreTrainedModel):
        model = cast(SideNetPreTrainedModel, served)
        cached = cache_features(
            model,
            part.dataset,
            default_cache() / "features",
            collate_fn=part.collate_fn,
            candidates=candidates,
            data_fingerprint=part.fingerprint,
            batch_size=batch_size,
            progress=progress,
            description=f"Features of {part.name} rows",
        )
        features = {candidate: cached.features(candidate) for candidate in candidates}
        answers = cached.mainnet_logits if answers is None else answers
    else:
        features, _ = read_stages(served, part, batch_size=batch_size, progress=progress)
    assert answers is not None  # Stages have a teacher.
    labels, task = part.labels, served.task
    if (labels == NO_LABEL).all():
        labels = task.answer(answers)
    return HeadData(features, answers.float(), labels, task)


def read_stages(
    stages: StageChain, part: SomeRows, *, batch_size: int = 32, every_exit: bool = False, progress: bool = True
) -> tuple[dict[Candidate, torch.Tensor], list[torch.Tensor]]:
    """Run a chain on some rows; return what its SideNets after blocks read, and the logits of its exits.

    Args:
        stages ([`StageChain`]): the chain.
        part ([`SomeRows`]): the rows.
        batch_size (`int`, *optional*, defaults to 32): rows per call.
        every_exit (`bool`, *optional*, defaults to `False`): run every stage, not only those up to the last SideNet.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        Pooled x_c of shape `(num_rows, width)` for each place, and logits of shape `(num_rows, num_labels)` for each
        stage that ran, on the CPU.
    """
    count = len(stages) if every_exit else len(stages) - 1

    def read(batch: Mapping[str, Any]) -> dict[Any, torch.Tensor]:
        features, logits = _run(stages, batch, count)
        return {**features, **dict(enumerate(logits))}

    found = _read(part, batch_size, read, f"Features of {part.name} rows", progress)
    logits = [found.pop(index) for index in range(count)]
    return found, logits


def _answers(classifier: PreTrainedModel, part: SomeRows, batch_size: int, progress: bool) -> torch.Tensor:
    def read(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {"logits": classifier(**model_inputs(batch, classifier.device, classifier.dtype)).logits.cpu()}

    with evaluating(classifier):
        return _read(part, batch_size, read, f"Answers to {part.name} rows", progress)["logits"]


@torch.no_grad()
def _run(
    stages: StageChain, batch: Mapping[str, Any], count: int
) -> tuple[dict[Candidate, torch.Tensor], list[torch.Tensor]]:
    """Return what the SideNets after blocks read, and the logits of the first `count` stages."""
    inputs, places = model_inputs(batch, stages.device, stages.dtype), places_after_blocks(stages)
    mask, hidden = inputs.get("attention_mask"), None
    features, found = {}, []
    for index in range(count):
        hidden, logits = stages(index, hidden, inputs)
        if index in places:
            assert hidden is not None  # A stage that ends after a block has x_c.
            pooling = places[index].pooling
            features[places[index]] = pool(hidden, pooling, pooling_mask(mask, pooling)).cpu()
        found.append(logits.cpu())
        inputs = stages.modality.later_inputs(inputs, hidden)
    return features, found


@torch.no_grad()
def _read(
    part: SomeRows,
    batch_size: int,
    read: Callable[[Mapping[str, Any]], dict[Any, torch.Tensor]],
    description: str,
    progress: bool,
) -> dict[Any, torch.Tensor]:
    """Read tensors batch by batch, texts of similar length together; return them in the order of the rows."""
    order = by_length(part.dataset)
    ordered = Subset(cast(Dataset, part.dataset), order)
    loader = DataLoader(ordered, batch_size, collate_fn=part.collate_fn, generator=torch.Generator())
    parts = [read(batch) for batch in logging.tqdm(loader, desc=description, disable=not progress)]
    back = torch.tensor(order).argsort()
    return {name: torch.cat([each[name] for each in parts])[back] for name in parts[0]}
