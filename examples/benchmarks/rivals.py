# SPDX-License-Identifier: Apache-2.0
"""Rivals as methods of the benchmark: a truncated MainNet, a cascade of two classifiers, SideNets before the first
block alone, and the same MainNet with SideNets after blocks only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from cascade import by_cascade, cascade_threshold
from transformers import AutoConfig

from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.benchmark.methods import EAGER, ONNX_RUNTIME, RIVAL, Method
from hf_sidenet.benchmark.plain import PlainChain, PlainConfig
from hf_sidenet.benchmark.rows import logits_by_place
from hf_sidenet.benchmark.variants import Checkpoint, TorchVariant
from hf_sidenet.benchmark.ways import as_runner, by_first_stage
from hf_sidenet.data import load_processor
from hf_sidenet.inference import Stages
from hf_sidenet.inference.protocols import Engine, with_own_config
from hf_sidenet.inference.routings import WholeEngine
from hf_sidenet.inference.rows import Row
from hf_sidenet.models.tasks import SINGLE_LABEL


TRUNCATED, CASCADE, WITHOUT_INPUT = "truncated MainNet", "cascade", "runner without exit 0"


@dataclass(frozen=True)
class Rivals:
    """The classifiers that a checkpoint is compared with, as JSON values, so that another process can build the same
    methods.

    Args:
        truncated (`str`, *optional*): folder or Hub id of a truncated, fine-tuned classifier.
        small_model (`str`, *optional*): folder or Hub id of a smaller classifier of the same inputs, for the cascade.
        small_threshold (`float`, *optional*): the small model answers if its confidence is greater; see
            [`with_threshold`].
        alone (`Mapping[str, str]`, *optional*): checkpoints whose first SideNet answers every row, by name.
        without_input (`str`, *optional*): checkpoint of the same MainNet, calibrated without a SideNet before its
            first block.

    Raises:
        ValueError: `small_threshold` is given without `small_model`.
    """

    truncated: str | None = None
    small_model: str | None = None
    small_threshold: float | None = None
    alone: Mapping[str, str] = field(default_factory=dict)
    without_input: str | None = None

    def __post_init__(self):
        if self.small_threshold is not None and self.small_model is None:
            raise ValueError(f"`small_threshold` must come with `small_model`, got {self.small_threshold!r} alone.")


def check_rivals(rivals: Rivals, catalog: Catalog) -> None:
    """Raise an error for classifiers that cannot answer the same rows.

    Args:
        rivals ([`Rivals`]): classifiers.
        catalog ([`Catalog`]): of the checkpoint that the rows were prepared for.

    Raises:
        ValueError: a classifier has different classes or another vocabulary.
    """
    expected = catalog.base.config.id2label
    named = {name: getattr(rivals, name) for name in ("truncated", "small_model", "without_input")}
    for name, directory in (*named.items(), *rivals.alone.items()):
        if directory is None:
            continue
        found = AutoConfig.from_pretrained(directory).id2label
        if found != expected:
            raise ValueError(
                f"`{name}` must have the checkpoint's classes, {list(expected.values())}, got "
                f"{list(found.values())} in {directory!r}."
            )
        if catalog.modality.has_tokens:
            own, other = (
                load_processor(path, catalog.modality).get_vocab() for path in (catalog.base.directory, directory)
            )
            if own != other:
                raise ValueError(
                    f"`{name}` must have the checkpoint's vocabulary of {len(own):,} tokens, since both read the same "
                    f"rows, got another one of {len(other):,} in {directory!r}."
                )


def with_threshold(rivals: Rivals, catalog: Catalog, rows: Sequence[Row], labels: Sequence[int]) -> Rivals:
    """Return the same rivals, with a threshold at which the cascade is as accurate on these rows as the checkpoint, or
    as its MainNet if that is less accurate; see [`cascade_threshold`]. Nothing changes without a cascade, or if the
    threshold is given.

    Args:
        rivals ([`Rivals`]): classifiers.
        catalog ([`Catalog`]): of the checkpoint.
        rows (`Sequence[Row]`): with `place` 0, 1, 2, ...
        labels (`Sequence[int]`): their classes.
    """
    if rivals.small_model is None or rivals.small_threshold is not None:
        return rivals
    right, config = torch.tensor(labels), catalog.base.config
    large, _ = catalog.reference.mainnet(rows)
    routed, _ = catalog.reference.routed(catalog.settings.thresholds or config.thresholds, config.temperatures)(rows)
    accuracy = min((answer == right).double().mean().item() for answer in (large, routed))
    small = load_plain(rivals.small_model, catalog, catalog.base.precision)
    logits = logits_by_place(lambda inputs: small(0, None, inputs)[1], small, rows)
    return replace(rivals, small_threshold=cascade_threshold(logits, large, labels, accuracy))


def rival_methods(rivals: Rivals, catalog: Catalog) -> list[Method]:
    """Return every rival in eager PyTorch, in every precision of the checkpoint's own eager methods.

    Args:
        rivals ([`Rivals`]): classifiers.
        catalog ([`Catalog`]): of the checkpoint.

    Raises:
        ValueError: the cascade has no threshold.
    """
    if rivals.small_model is not None and rivals.small_threshold is None:
        raise ValueError("`small_model` must have a `small_threshold`, got none: call `with_threshold` first.")
    found = []
    for variant in catalog.variants:
        if variant.engine == EAGER and rivals.truncated is not None:
            found.append(_method(TRUNCATED, variant, catalog, _truncated(rivals, variant, catalog)))
        if variant.engine == EAGER and rivals.small_model is not None:
            method = _method(CASCADE, variant, catalog, _cascade(rivals, variant, catalog))
            found.append(replace(method, note=f"its small model answers above {rivals.small_threshold:.6g}"))
    own = [variant for variant in catalog.variants if variant.precision == catalog.base.precision]
    for kind, directory in rivals.alone.items():
        found += [_method(kind, variant, catalog, _alone(directory, catalog)) for variant in own if _is_eager(variant)]
    if rivals.without_input is not None:
        checkpoint = Checkpoint(rivals.without_input, None, catalog.device)
        for engine in dict.fromkeys(variant.engine for variant in own if variant.engine != ONNX_RUNTIME):
            found.append(_early_exits(TorchVariant(checkpoint, engine), catalog))
    recipe, asked = f"{Path(__file__).stem}:{method_named.__name__}", asdict(catalog.settings)
    return [
        replace(each, recipe=(recipe, {"settings": asked, "rivals": asdict(rivals), "name": each.name}))
        for each in found
    ]


def method_named(settings: dict[str, Any], rivals: dict[str, Any], name: str) -> Method:
    """Return one of the rivals, for another process."""
    methods = rival_methods(Rivals(**rivals), Catalog(Settings(**settings)))
    return next(method for method in methods if method.name == name)


def load_plain(directory: str, catalog: Catalog, precision: str) -> PlainChain:
    """Load a classifier without SideNets, as a chain of one stage.

    Args:
        directory (`str`): folder or Hub id.
        catalog ([`Catalog`]): of the checkpoint, which answers the same rows on the same device.
        precision (`str`): name of a dtype.
    """
    auto = SINGLE_LABEL.auto_class(catalog.modality)
    model = auto.from_pretrained(directory, dtype=getattr(torch, precision), use_safetensors=True)
    return PlainChain(model.to(catalog.device).eval())


def _method(kind: str, variant: TorchVariant, catalog: Catalog, make: Callable[[], WholeEngine]) -> Method:
    # Texts are sorted by length: a truncated classifier is fastest in that order.
    return Method(
        kind,
        RIVAL,
        variant.precision,
        variant.engine,
        bucketed=catalog.modality.has_tokens,
        make=lambda *_: make(),
        dtype=variant.dtype,
    )


def _truncated(rivals: Rivals, variant: TorchVariant, catalog: Catalog) -> Callable[[], WholeEngine]:
    def make() -> WholeEngine:
        chain = load_plain(rivals.truncated, catalog, variant.precision)
        return WholeEngine(chain, by_first_stage(chain))

    return make


def _is_eager(variant: TorchVariant) -> bool:
    return variant.engine == EAGER


def _alone(directory: str, catalog: Catalog) -> Callable[[], WholeEngine]:
    def make() -> WholeEngine:
        chain = Stages(Checkpoint(directory, None, catalog.device).model)
        return WholeEngine(chain, by_first_stage(chain))

    return make


def _early_exits(variant: TorchVariant, catalog: Catalog) -> Method:
    def make(batch_size: int, batches: list[list[Row]]) -> Engine:
        return as_runner(variant.stages(), variant.model(), 0, batch_size, batches)

    return Method(
        WITHOUT_INPUT,
        RIVAL,
        variant.precision,
        variant.engine,
        bucketed=catalog.modality.has_tokens,
        make=make,
        thresholds=variant.thresholds,
        dtype=variant.dtype,
    )


def _cascade(rivals: Rivals, variant: TorchVariant, catalog: Catalog) -> Callable[[], WholeEngine]:
    def make() -> WholeEngine:
        small, large = load_plain(rivals.small_model, catalog, variant.precision), variant.plain()
        both = with_own_config(large)
        both.config = PlainConfig(large.config.mainnet_config, [1.0, 1.0])
        return WholeEngine(both, by_cascade(small, large, rivals.small_threshold))

    return make
