# SPDX-License-Identifier: Apache-2.0
"""Methods of a checkpoint: its plain MainNet, rivals that need nothing else, and ours."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from ..inference.engine import PoolingEngine
from ..inference.routings import WholeEngine, by_gates
from ..inference.rows import Row
from ..models.errors import ArgumentError
from ..models.exit_rule import check_thresholds
from ..models.tasks import task_of
from .methods import (
    EAGER,
    ONNX_RUNTIME,
    OURS,
    OWN_FORWARD,
    PER_BATCH,
    PLAIN,
    PLAIN_MAINNET,
    RIVAL,
    RUNNER,
    SIDENET_ALONE,
    WHOLE_BATCH,
    Answerer,
    Method,
)
from .rows import Reference
from .variants import Checkpoint, Choice, OnnxVariant, Settings, TorchVariant, onnx_variants
from .ways import as_runner, by_first_stage, by_whole_batch


Make = Callable[[int, list[list[Row]]], Answerer]
Variant = TorchVariant | OnnxVariant


class Catalog:
    """Methods to compare. Models are loaded when a method is made. Your own methods can also be passed to
    [`run_benchmark`].

    Args:
        settings ([`Settings`]): what to compare.

    Raises:
        ValueError: `also` names something that cannot be compared with the checkpoint, or `thresholds` does not have
            one value per SideNet.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.device = torch.device(settings.device)
        self.base = Checkpoint(settings.directory, None, self.device, settings.trust_remote_code)
        self.modality = task_of(self.base.config)[1]
        if settings.thresholds is not None:
            check_thresholds(list(settings.thresholds), len(self.base.config.exit_layers))
        self.choice = Choice(settings, self.base)
        self.reference = Reference(lambda: self.choice.for_reference().model)
        self.variants = self.choice.variants()

    def methods(self) -> list[Method]:
        """Return all methods in the order of the table: plain, rivals, ours.

        Raises:
            ValueError: ONNX Runtime is to be compared, but nothing was exported for it.
        """
        if self.choice.for_onnx() and not self.settings.onnx:
            raise ArgumentError(
                "engines", "includes ONNX Runtime, but nothing was exported for it: call `with_onnx` first"
            )
        orders = (False, True) if self.modality.has_tokens else (False,)
        eager = [each for each in self.variants if isinstance(each, TorchVariant) and each.engine == EAGER]
        found = [self._plain(variant, bucketed) for variant in self.variants for bucketed in orders]
        for variant in eager:
            found += [self._rival(variant, WHOLE_BATCH, _whole_batch(variant), bucketed) for bucketed in orders]
            found.append(self._rival(variant, SIDENET_ALONE, _sidenet_alone(variant), orders[-1]))
        for variant in self.variants:
            found += self._ours(variant, orders)
        asked = asdict(self.settings)
        recipe = f"{__name__}:{method_named.__name__}"
        return [replace(each, recipe=(recipe, {"settings": asked, "name": each.name})) for each in found]

    def with_onnx(self, folder: str | os.PathLike, rows: Sequence[Row]) -> "Catalog":
        """Return a catalog with the exports that ONNX Runtime needs, if it is compared; see [`export_variants`].

        Args:
            folder (`str` or `os.PathLike`): output folder, needed until the methods have run.
            rows (`Sequence[Row]`): real rows.
        """
        return self._with(onnx=self.choice.export(folder, rows))

    def _with(self, **changed: Any) -> "Catalog":
        found = copy.copy(self)
        found.settings = replace(self.settings, **changed)
        # Keep loaded models.
        torch_variants = [variant for variant in self.variants if variant.engine != ONNX_RUNTIME]
        found.variants = [*torch_variants, *onnx_variants(found.settings)]
        return found

    def _plain(self, variant: Variant, bucketed: bool) -> Method:
        # The note is shown once per precision.
        first = next(each for each in self.variants if each.precision == variant.precision)
        return Method(
            PLAIN_MAINNET,
            PLAIN,
            variant.precision,
            variant.engine,
            bucketed,
            make=lambda _, __: WholeEngine(variant.plain(), by_first_stage(variant.plain())),
            dtype=variant.dtype,
            expected=self.reference.mainnet,
            note=self.choice.left_out(variant.precision) if variant is first and not bucketed else "",
        )

    def _rival(self, variant: TorchVariant, kind: str, make: Make, bucketed: bool) -> Method:
        return Method(
            kind,
            RIVAL,
            variant.precision,
            variant.engine,
            bucketed,
            make=make,
            thresholds=variant.thresholds,
            dtype=variant.dtype,
            note=variant.note if kind == WHOLE_BATCH else "",
        )

    def _ours(self, variant: Variant, orders: Sequence[bool]) -> list[Method]:
        def method(kind: str, make: Make, bucketed: bool) -> Method:
            return Method(
                kind,
                OURS,
                variant.precision,
                variant.engine,
                bucketed,
                make=make,
                thresholds=variant.thresholds,
                dtype=variant.dtype,
                stages=variant.stages,
                expected=self.reference.routed(variant.thresholds, variant.temperatures),
                note=variant.note,
            )

        found = []
        if variant.engine == EAGER:
            found.append(method(OWN_FORWARD, _own_forward(variant), orders[-1]))
        # One engine in mixed order is enough to show what the order costs.
        for bucketed in orders if variant.engine == EAGER else orders[-1:]:
            found.append(method(PER_BATCH, _per_batch(variant), bucketed))
        found.append(method(RUNNER, _runner(variant), orders[-1]))
        return found


def _own_forward(variant: Variant) -> Make:
    def make(batch_size: int, batches: list[list[Row]]) -> WholeEngine:
        model = variant.model()
        assert model is not None  # An eager variant has one.
        return WholeEngine(variant.stages(), by_gates(model))

    return make


def method_named(settings: dict[str, Any], name: str) -> Method:
    """Return one method of a catalog, for another process.

    Args:
        settings (`dict[str, Any]`): arguments of [`Settings`].
        name (`str`): name of the method.
    """
    return next(method for method in Catalog(Settings(**settings)).methods() if method.name == name)


def _whole_batch(variant: TorchVariant) -> Make:
    return lambda _, __: WholeEngine(variant.stages(), by_whole_batch(variant.stages()))


def _sidenet_alone(variant: TorchVariant) -> Make:
    return lambda _, __: WholeEngine(variant.stages(), by_first_stage(variant.stages()))


def _per_batch(variant: Variant) -> Make:
    return lambda _, __: PoolingEngine(variant.stages(), pool_size=1, num_in_flight=_in_flight(variant))


def _runner(variant: Variant) -> Make:
    return lambda batch_size, batches: as_runner(
        variant.stages(), variant.model(), _in_flight(variant), batch_size, batches
    )


def _in_flight(variant: Variant) -> int:
    return 1 if variant.stages().device.type == "cuda" else 0
