# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint with SideNets, or recalibrate it for another target, precision or other rows."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration import (
    TESTS,
    Calibration,
    Target,
    calibrate,
    check_fresh,
    check_targets,
    count_looks,
    look_key,
    parse_targets,
    split_rows,
)
from ..calibration.chain import NO_CHAIN, Chaining, chained_records
from ..calibration.label_checks import Answered, check_class_order, check_labeled
from ..data import Columns, load_processor
from ..data.formats import MapStyle, Processor
from ..data.rows import Rows, SomeRows, prepare_rows
from ..evaluation import ExitEvaluation
from ..evaluation.recalls import certified_rows
from ..export.onnx import OnnxStages
from ..hub.push import save_checkpoint, save_recalibrated
from ..inference.certificate import length_of, other_weights, set_calibration, source_weights, why_not_certified
from ..inference.classes import load_model
from ..inference.collect import collect_stages, row_costs, stage_costs
from ..inference.precision import (
    cast_copy,
    check_finite,
    check_precision,
    parse_dtype,
    precision_of,
    tell_lost_reference,
)
from ..inference.protocols import StageChain
from ..io.cache import default_cache
from ..io.fingerprint import fingerprint_weights
from ..measurement import ExitCosts, ExitRecords, collect
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import label_names
from ..report import Found, Report
from ..training.heads import HeadTraining
from .retraining import (
    check_retraining,
    retrain_sidenets,
    stages_with_sidenets,
    trained_precision,
    with_sidenets,
)


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

# For evidence that has neither.
DEFAULT_SEED, DEFAULT_FRACTION = 0, 0.75
# Folder in the cache that counts how often rows have certified.
LEDGER = "looks"


@dataclass(frozen=True)
class Recalibration:
    """Result of [`recalibrate`].

    Args:
        found ([`Found`]): verdict, path, costs, and results on the certification rows.
        model ([`SideNetPreTrainedModel`]): model in the calibrated precision, with the new SideNets if they were
            retrained, temperatures, θ and evidence; the original model for "do not attach", or if stages were
            calibrated.
        processor (tokenizer or image processor, *optional*): processor of the model.
        config ([`SideNetConfig`]): config of the model or the stages, with the new values unless "do not attach".
        precision (`str`): calibrated precision, such as `"bfloat16"` or `"int8 (ONNX Runtime)"`.
        settings (`dict[str, Any]`): settings for reading and running rows: `max_length`, `batch_size`.
        given_reference (`bool`): whether the reference was a classifier other than the MainNet inside.
        sidenet_precision (`str`, *optional*): precision of the x_c that the SideNets were trained on; `None` if not
            known.
        stages ([`StageChain`], *optional*): stages that were calibrated instead of the model, with the new SideNets if
            they were retrained.
        folder (`Path`, *optional*): exported folder of the stages that were given.
    """

    found: Found
    model: SideNetPreTrainedModel
    processor: Processor | None
    config: SideNetConfig
    precision: str
    settings: dict[str, Any]
    given_reference: bool
    sidenet_precision: str | None
    stages: StageChain | None = None
    folder: Path | None = None

    @property
    def verdict(self) -> str:
        """`"attach"`, or `"do not attach"` if no threshold meets the target and reduces cost."""
        return self.found.verdict

    @property
    def reason(self) -> str:
        """Reason for the verdict, in a sentence."""
        return self.found.reason

    @property
    def calibration(self) -> Calibration:
        """Path, and results on the certification rows."""
        return self.found.calibration

    @property
    def costs(self) -> ExitCosts:
        """Costs measured on these rows and this machine."""
        return self.found.costs

    @property
    def rows(self) -> Rows:
        """The validation rows."""
        return self.found.validation

    @property
    def certification(self) -> dict[str, Any]:
        """Results on the certification rows, as in the report."""
        return self.found.certification

    def save(
        self,
        directory: str | os.PathLike,
        *,
        report: Mapping[str, Any] | None = None,
        source: str | os.PathLike | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the checkpoint with its new θ, as [`attach`] does, with card and `report.json`.

        Results on test rows are left out, because they are for the old θ. For exported stages, write their folder.

        Args:
            directory (`str` or `os.PathLike`): folder to write; with `overwrite`, may be `source`.
            report (`Mapping[str, Any]`, *optional*):
                [`Report`] of the original checkpoint; by default read from `source`.
            source (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of the model and report, or of the stages; by default the model's `name_or_path`.
            overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty `directory`.

        Raises:
            ValueError: the verdict is "do not attach", there is no report of `attach`, or the folder is not empty.
        """
        if self.found.evidence is None:
            raise ValueError(f"there is no checkpoint to save: {self.reason}.")
        if self.stages is not None:
            folder = self.folder if source is None else source
            if folder is None:
                raise ArgumentError(
                    "source", "must be given for stages that are not from an exported folder, got None"
                )
            own = getattr(self.stages, "directory", None)
            retrained = None if own == self.folder else own
            save_recalibrated(directory, folder, self.config, stages=retrained, overwrite=overwrite)
            return
        source = self.model.config.name_or_path or "" if source is None else source
        before = Report.load(source) if report is None else Report(report)
        made = before.recalibrated(self.found, given_reference=self.given_reference, **self.settings)
        save_checkpoint(directory, self.model, self.processor, made, overwrite=overwrite, source=source)


def load_checkpoint(
    path: str | os.PathLike, *, check: bool = True, **hub_kwargs: Any
) -> tuple[SideNetPreTrainedModel, Processor]:
    """Load a checkpoint with SideNets, with this package's own classes, and its tokenizer or image processor.

    Args:
        path (`str`): folder or Hub id.
        check (`bool`, *optional*, defaults to `True`):
            Warn if the evidence behind θ does not cover the loaded model, which reads all weights; see
            [`why_not_certified`].
        hub_kwargs (`Any`): arguments of `from_pretrained`: `revision`, `token`, `dtype`, ...

    Raises:
        ValueError: it has no SideNets or no processor, or is damaged.
    """
    names = {name: value for name, value in hub_kwargs.items() if name in ("revision", "token")}
    model = load_model(path, SideNetConfig.from_pretrained(path, **names), **hub_kwargs)
    processor = load_processor(str(path), model.modality, **names)
    reason = why_not_certified(model, processor) if check else None
    if reason is not None:
        logger.warning("Not certified: %s.", reason)
    return model.eval(), processor


def evaluate_checkpoint(
    model: SideNetPreTrainedModel,
    processor: Processor | None,
    test: "Dataset | MapStyle",
    *,
    reference: PreTrainedModel | None = None,
    columns: Columns | None = None,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    trust_labels: bool = False,
    skip_bad_rows: bool = False,
    batch_size: int = 32,
    num_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> tuple[ExitEvaluation, ExitRecords]:
    """Evaluate a checkpoint at its own θ on test rows.

    Args:
        model ([`SideNetPreTrainedModel`]): a checkpoint with SideNets.
        processor (tokenizer or image processor): processor of the checkpoint.
        test (`datasets.Dataset`): raw rows, or model inputs, with labels.
        reference (`PreTrainedModel`, *optional*): reference classifier, by default the MainNet inside.
        columns ([`Columns`], *optional*): columns of raw rows; found automatically by default.
        max_length (`int`, *optional*): tokens at which texts are truncated.
        labels (`Sequence[str]`, *optional*): names of the outputs in raw rows, in order; see [`match_classes`].
        trust_labels (`bool`, *optional*, defaults to `False`): see [`attach`].
        skip_bad_rows (`bool`, *optional*, defaults to `False`): see [`prepare_rows`].
        batch_size (`int`, *optional*, defaults to 32): rows per call, also for timing.
        num_resamples (`int`, *optional*, defaults to 1000): number of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0): seed of the bootstrap.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Raises:
        ClassOrderError: the labels do not match the MainNet's answers.
        ValueError: an argument is invalid, or a label is not a class of the MainNet.
    """
    check_precision(model.config, precision_of(model))
    rows = _prepared(model, processor, test, "test", columns, max_length, labels, skip_bad_rows)
    costs = row_costs(model, rows, batch_size, progress=progress)
    if not rows.has_labels:
        raise ArgumentError("test", "must have labels, got none")
    records = _collected(model, rows, reference, batch_size, progress)
    _check_labels(records, "test", rows, trust_labels)
    return evaluate_records(records, costs, model.config, num_resamples=num_resamples, seed=seed), records


def evaluate_records(
    records: ExitRecords,
    costs: ExitCosts,
    config: SideNetConfig,
    *,
    path: Sequence[Sequence[float]] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ExitEvaluation:
    """Make an [`ExitEvaluation`] at the θ and temperatures of a config."""
    return ExitEvaluation.from_records(
        records,
        costs,
        thresholds=config.thresholds,
        temperatures=config.temperatures,
        path=path,
        names=label_names(config),
        num_resamples=num_resamples,
        seed=seed,
    )


def recalibrate(
    model: SideNetPreTrainedModel,
    processor: Processor | None,
    validation: "Dataset | MapStyle",
    *,
    target: str | Target | Sequence[str | Target],
    confidence_level: float = 0.95,
    test_method: str = "paired",
    train: "Dataset | MapStyle | None" = None,
    reference: PreTrainedModel | None = None,
    dtype: str | torch.dtype | None = None,
    stages: StageChain | None = None,
    retrain: HeadTraining | None = None,
    columns: Columns | None = None,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    trust_labels: bool = False,
    skip_bad_rows: bool = False,
    trust_rows: bool = False,
    batch_size: int = 32,
    progress: bool = True,
) -> Recalibration:
    """Find temperatures and θ for another target or precision, on other rows or another machine.

    The rows are split the same way as when the SideNets were attached (same seed and share), so that rows used for
    early stopping do not certify. Another calibration on the same rows is counted in the evidence.

    Nothing is trained unless `retrain` is given: then the SideNets after blocks are first trained anew on the training
    rows, on x_c as computed by what will serve (the model in its precision, or the exported stages), with the
    reference classifier as teacher; design rows stop the training. Where exits build on earlier ones, the weights are
    fitted anew too, if the rows have labels.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; changed only if θ is found, without `dtype`, `stages` and
            `retrain`.
        processor (tokenizer or image processor): processor of the model.
        validation (`datasets.Dataset`): rows that trained neither MainNet nor SideNets.
        target (`str` or `list[str]`): see [`Target`].
        confidence_level (`float`, *optional*, defaults to 0.95): probability with which guaranteed targets hold.
        test_method (`str`, *optional*, defaults to `"paired"`): test of `accuracy_drop`; see [`pvalues`].
        train (`datasets.Dataset`, *optional*):
            Training rows, to check that validation rows are not copies of them, and for `retrain`.
        reference (`PreTrainedModel`, *optional*):
            Reference classifier, in its own precision; by default the MainNet inside `model`.
        dtype (`str` or `torch.dtype`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`: calibrate a copy of `model` in this precision.
        stages ([`StageChain`], *optional*):
            Chain of stages with the same layers, such as an exported one, to calibrate instead of `model`: its config
            gets θ, and its time is measured. Parameters and FLOPs are those of `model`.
        retrain ([`HeadTraining`], *optional*):
            Settings to retrain the SideNets with; needs `train`, and [`OnnxStages`] if there are stages. The given
            stages and their folder are not changed.
        columns ([`Columns`], *optional*): columns of raw rows; found automatically by default.
        max_length (`int`, *optional*): tokens at which texts are truncated.
        labels (`Sequence[str]`, *optional*): names of the outputs in raw rows, in order; see [`match_classes`].
        trust_labels (`bool`, *optional*, defaults to `False`): see [`attach`].
        skip_bad_rows (`bool`, *optional*, defaults to `False`): see [`prepare_rows`].
        trust_rows (`bool`, *optional*, defaults to `False`): see [`attach`].
        batch_size (`int`, *optional*, defaults to 32): rows per call, also for timing.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Raises:
        ClassOrderError: the labels do not match the MainNet's answers.
        ExportError: the SideNets in the exported stages cannot be replaced.
        RepeatedRowsError: validation rows repeat training or design rows more often than fresh rows would.
        TooFewRowsError: there are too few certification rows for the target; the message says how many are needed.
        ValueError: an argument is invalid, or logits overflow in the precision.
    """
    targets = parse_targets(target)
    if test_method not in TESTS:
        raise ArgumentError("test_method", f"must be one of {TESTS}", test_method)
    given = model if stages is None else stages
    dtype = _check_served(model, dtype, stages)
    if retrain is not None:
        check_retraining(model.config, retrain, stages, train is not None)
    before = given.config.calibration or model.config.calibration or {}
    seed = before.get("seed", DEFAULT_SEED)
    fraction = before.get("certification_fraction", DEFAULT_FRACTION)
    about_rows = (columns, max_length, labels, skip_bad_rows)
    rows = _prepared(model, processor, validation, "validation", *about_rows)
    check_labeled({"validation": rows}, targets)
    training = None if train is None else _prepared(model, processor, train, "train", *about_rows)
    known = [] if training is None else training.contents
    split = split_rows(len(rows), fraction, seed)
    check_targets(targets, confidence_level, test_method, len(split.certification))
    repeats = check_fresh(split, rows.contents, known, trust_rows=trust_rows)
    if before and before.get("validation_fingerprint") != rows.fingerprint:
        logger.warning(
            "These are not the validation rows of the last calibration: they must not include rows used for early "
            "stopping of the SideNets, which cannot be checked here."
        )
    served_model = model if dtype is None else cast_copy(model, dtype)
    folder = getattr(stages, "directory", None)
    served = served_model if stages is None else stages
    compared = model.mainnet if reference is None and served is not model else reference
    reference_precision = precision_of(served if compared is None else compared)
    tell_lost_reference(before, reference, reference_precision)
    source, is_inside, chaining = source_weights(model), served is model, NO_CHAIN
    sidenet_precision = trained_precision(before)
    manifest: Any = getattr(stages, "manifest", None)
    if manifest is not None and manifest.retrained_from is not None:
        source = manifest.weights
    if retrain is not None:
        assert training is not None  # See `check_retraining`.
        learning = SomeRows(training, "train")
        stopping = SomeRows(rows, "design", split.design)
        sidenets = retrain_sidenets(
            served, learning, stopping, retrain, teacher=compared, batch_size=batch_size, progress=progress
        )
        if stages is None:
            served = served_model = with_sidenets(served_model, sidenets)
            source = fingerprint_weights(served_model)
        else:
            # See `check_retraining`.
            served = stages = stages_with_sidenets(cast(OnnxStages, stages), model, sidenets, stopping)
            source = cast(str, stages.manifest.weights)
        sidenet_precision = precision_of(served)
        if rows.has_labels:
            # The weights of earlier exits were those of the old SideNets.
            chaining = Chaining.of(served.config)
            served.config.chain = None
    if stages is None:
        costs = row_costs(served_model, rows, batch_size, which=split.design, progress=progress)
    else:
        costs = stage_costs(stages, model, rows, batch_size, which=split.design, progress=progress)
    records = _collected(served, rows, compared, batch_size, progress)
    check_finite(records, precision_of(served))
    if chaining != NO_CHAIN:
        served.config.chain = chaining.fit(records.select(split.design))
        records = chained_records(records, served.config.chain)
    certifies = any(one.uses_labels for one in targets) and rows.has_labels
    _check_labels(records.select(split.design), "design", rows, trust_labels, certifies=certifies)
    calibration = calibrate(
        records.select(split.design),
        records.select(split.certification),
        costs,
        targets,
        confidence_level=confidence_level,
        test=test_method,
        # Labels may be the MainNet's own answers, such as those of a monitor's rows.
        mainnet_temperature=None if certifies else given.config.temperatures[-1],
    )
    look = look_key(
        weights=source,
        targets=targets,
        confidence_level=confidence_level,
        test=test_method,
        reference=other_weights(reference, model.mainnet),
        split=(seed, fraction),
        chain=served.config.chain,
    )
    # Failed attempts count too: what matters is the number of looks at the rows.
    counted = count_looks(default_cache() / LEDGER, split.certifying(rows.contents), look)
    certification = certified_rows(
        records.select(split.certification),
        label_names(given.config),
        calibration.chosen_setting,
        repeats.about(trust_rows),
        has_labels=rows.has_labels,
        exit_layers=given.config.exit_layers,
    )
    is_found = calibration.chosen_setting is not None
    earlier = before.get("num_calibrations", 0) if before.get("validation_fingerprint") == rows.fingerprint else 0
    if is_found:
        set_calibration(
            served,
            calibration,
            processor,
            length_of(model, processor, max_length),
            reference="other" if reference is not None else "inside" if is_inside else "stored",
            reference_precision=reference_precision,
            sidenet_precision=sidenet_precision,
            retrained=retrain is not None or before.get("retrained", False),
            seed=seed,
            certification_fraction=fraction,
            validation_fingerprint=rows.fingerprint,
            repeated_rows=certification["repeated_rows"],
            num_calibrations=max(counted, earlier + (look != before.get("look"))),
            look=look,
            source_weights=source,
        )
    config = served.config if is_found else given.config
    return Recalibration(
        found=Found(calibration, costs, config.calibration if is_found else None, certification, rows, trust_labels),
        model=served_model if is_found and stages is None else model,
        processor=processor,
        config=config,
        precision=precision_of(served),
        settings={"max_length": max_length, "batch_size": batch_size},
        given_reference=reference is not None,
        sidenet_precision=sidenet_precision,
        stages=stages,
        folder=None if folder is None else Path(folder),
    )


def _prepared(
    model: SideNetPreTrainedModel,
    processor: Processor | None,
    rows: "Dataset | MapStyle",
    name: str,
    columns: Columns | None,
    max_length: int | None,
    labels: Sequence[str] | None,
    skip_bad_rows: bool,
) -> Rows:
    prepared = prepare_rows(
        {name: rows},
        model.config,
        processor,
        modality=model.modality,
        columns=columns,
        max_length=max_length,
        labels=labels,
        skip_bad_rows=skip_bad_rows,
    )
    return prepared[name]


def _check_labels(records: ExitRecords, name: str, rows: Rows, trust_labels: bool, *, certifies: bool = False) -> None:
    answered = Answered.from_records(name, records)
    check_class_order([answered], rows.classes, trust_labels=trust_labels, certifies=certifies)


def _collected(
    served: SideNetPreTrainedModel | StageChain,
    rows: Rows,
    reference: PreTrainedModel | None,
    batch_size: int,
    progress: bool,
) -> ExitRecords:
    has_labels = rows.has_labels

    def batch_of(items: list[Any]) -> dict[str, Any]:
        batch = dict(rows.collate_fn(items))
        # Placeholder until the MainNet has answered.
        return batch if has_labels else {**batch, "labels": torch.zeros(len(items), dtype=torch.long)}

    # torch accepts a list or a `datasets.Dataset`.
    loader = DataLoader(cast(TorchDataset, rows.dataset), batch_size, collate_fn=batch_of)
    if isinstance(served, PreTrainedModel):
        records = collect(cast(SideNetPreTrainedModel, served), loader, reference=reference, progress=progress)
    else:
        records = collect_stages(served, loader, reference=reference, progress=progress)
    return records if has_labels else replace(records, labels=records.task.answer(records.mainnet_logits))


def _check_served(
    model: SideNetPreTrainedModel, dtype: str | torch.dtype | None, stages: StageChain | None
) -> torch.dtype | None:
    """Return the dtype to cast the model to, or `None`.

    Raises:
        ValueError: an argument is invalid, or the stages are from another model.
    """
    if stages is None:
        dtype = model.dtype if dtype is None else parse_dtype(dtype)
        return None if dtype == model.dtype else dtype
    if dtype is not None:
        raise ArgumentError("dtype", "must not be given with `stages`, which have their own precision", dtype)
    for name in ("exit_layers", "pooling", "chain", "id2label"):
        own, expected = getattr(stages.config, name), getattr(model.config, name)
        if own != expected:
            raise ArgumentError("stages", f"must have the same {name} as `model`, got {own} and {expected}")
    manifest: Any = getattr(stages, "manifest", None)
    weights = None if manifest is None else manifest.retrained_from or manifest.weights
    if weights not in (None, fingerprint_weights(model)):
        raise ArgumentError("stages", "must have the same weights as `model`, got those of another model")
    return None
