# SPDX-License-Identifier: Apache-2.0
"""Turn a fine-tuned classifier into a calibrated early-exit checkpoint in one call.

The guarantee rests entirely on how rows are used:

* training rows train the SideNets (and, with `tune="joint"`, the MainNet);
* validation rows are split at random: *design* rows are for early stopping and for choosing exit layers, temperatures
  and the path of thresholds; *certification* rows are used once, to test along that path;
* test rows are only for reporting.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils import logging

from ..calibration import (
    TESTS,
    Budget,
    Calibration,
    Chaining,
    Target,
    calibrate,
    chained_records,
    check_confidence_level,
    check_fresh,
    check_targets,
    count_looks,
    level_per_target,
    look_key,
    parse_targets,
    split_rows,
)
from ..calibration.label_checks import check_class_order, check_labeled
from ..data import Columns
from ..data.formats import MapStyle, Processor
from ..data.rows import prepare_rows
from ..evaluation.recalls import certified_rows, recall_warnings
from ..hub.push import CHECKPOINT, save_checkpoint
from ..inference.certificate import length_of, other_weights, set_calibration
from ..inference.collect import row_costs
from ..inference.precision import precision_of
from ..io.fingerprint import fingerprint_model, fingerprint_weights
from ..io.folders import check_free
from ..measurement import ExitRecords
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from ..report import Found, Report
from ..training.heads import HeadTraining
from ..training.joint import JointTraining, tune_jointly
from .checkpoint import LEDGER, default_cache, evaluate_records
from .steps import (
    AttachRun,
    Clock,
    all_candidates,
    at_input_size,
    attached_model,
    load_mainnet,
    name_classes,
    place_sidenets,
    placement_table,
    tell_where_it_runs,
)


if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from ..evaluation import ExitEvaluation

logger = logging.get_logger(__name__)

TUNES = ("heads", "joint")
REFERENCES = ("given", "tuned")


@dataclass(frozen=True)
class AttachResult:
    """Result of [`attach`].

    Args:
        verdict (`str`): `"attach"` or `"do not attach"`.
        reason (`str`): reason for the verdict, in a sentence.
        model ([`SideNetPreTrainedModel`], *optional*): model with temperatures and θ; `None` for "do not attach".
        processor (*optional*): tokenizer or image processor.
        report ([`Report`]): all measurements; `report.json` of the folder.
        evaluation ([`ExitEvaluation`], *optional*): evaluation on test rows, if there are any.
        test_records ([`ExitRecords`], *optional*): records of the test rows.
    """

    verdict: str
    reason: str
    model: SideNetPreTrainedModel | None
    processor: Processor | None
    report: Report
    evaluation: "ExitEvaluation | None" = None
    test_records: ExitRecords | None = None

    def save(self, directory: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the checkpoint folder, atomically: weights, config, processor, code, `report.json`, figures and card.

        Raises:
            ValueError: the verdict is "do not attach", or the folder is not empty.
        """
        if self.model is None:
            raise ValueError(f"there is no checkpoint to save: {self.reason}.")
        save_checkpoint(
            directory,
            self.model,
            self.processor,
            self.report,
            evaluation=self.evaluation,
            records=self.test_records,
            overwrite=overwrite,
        )


def attach(
    mainnet: str | nn.Module,
    train: "Dataset | MapStyle",
    validation: "Dataset | MapStyle",
    test: "Dataset | MapStyle | None" = None,
    *,
    target: str | Target | Sequence[str | Target] = "accuracy_drop<=0.01",
    confidence_level: float = 0.95,
    output_dir: str | os.PathLike | None = None,
    overwrite: bool = False,
    processor: Processor | None = None,
    columns: Columns | None = None,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    trust_labels: bool = False,
    skip_bad_rows: bool = False,
    trust_rows: bool = False,
    blocks: str | None = None,
    exit_layers: Sequence[int] | None = None,
    poolings: Sequence[str] | None = None,
    max_exits: int = 4,
    chain: bool = True,
    ensemble: bool = False,
    heads: HeadTraining | None = None,
    tune: str = "heads",
    joint: JointTraining | None = None,
    reference: str = "given",
    test_method: str = "paired",
    certification_fraction: float = 0.75,
    batch_size: int = 32,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    accelerator: "Accelerator | None" = None,
    progress: bool = True,
    **hub_kwargs: Any,
) -> AttachResult:
    """Attach SideNets to a fine-tuned classifier, train them, and choose θ for a target.

    Args:
        mainnet (`str`, `PreTrainedModel` or `nn.Module`):
            Fine-tuned classifier: folder, Hub id or model, also of timm or torchvision, which brings its image
            processor, or any other network that maps a batch to logits; or `"torchvision:resnet18"`,
            `"timm:resnet50"` with `weights`, a file.
        train (`datasets.Dataset`): training rows: texts or images with labels, or model inputs with `labels`.
        validation (`datasets.Dataset`): rows that neither trained nor selected the MainNet.
        test (`datasets.Dataset`, *optional*): rows to report on.
        target (`str` or `list[str]`, *optional*, defaults to `"accuracy_drop<=0.01"`): see [`Target`].
        confidence_level (`float`, *optional*, defaults to 0.95): probability with which guaranteed targets hold.
        output_dir (`str`, *optional*): folder to write; `None` to use `result.save` later, or not at all.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty `output_dir`.
        processor (*optional*): tokenizer or image processor; by default the one saved with `mainnet`.
        columns ([`Columns`], *optional*): columns of raw rows; found automatically by default.
        max_length (`int`, *optional*): tokens at which texts are truncated.
        labels (`Sequence[str]`, *optional*):
            Names of the MainNet's outputs in raw rows, in order. Needed if neither the MainNet's own names nor a
            `ClassLabel` identify the outputs; see [`match_classes`].
        trust_labels (`bool`, *optional*, defaults to `False`):
            Accept labels even if they contradict the MainNet's answers; see [`check_class_order`].
        skip_bad_rows (`bool`, *optional*, defaults to `False`): see [`prepare_rows`].
        trust_rows (`bool`, *optional*, defaults to `False`):
            Accept validation rows even if they repeat training rows more often than fresh rows would; see
            [`check_fresh`].
        blocks (`str`, *optional*): name of the MainNet's list of blocks, or its end; see [`SideNetConfig`].
        exit_layers (`Sequence[int]`, *optional*): candidate places, by default all; 0 is before the first block.
        poolings (`Sequence[str]`, *optional*): candidate poolings; see [`all_candidates`].
        max_exits (`int`, *optional*, defaults to 4): maximum number of SideNets.
        chain (`bool`, *optional*, defaults to `True`):
            A SideNet also adds the logits of the SideNets before it to its own where that helps, with weights
            from the design rows; see `SideNetConfig.chain`.
        ensemble (`bool`, *optional*, defaults to `False`):
            Rows that reach the MainNet are answered by it and the SideNets before it together, which changes its
            answers, also at θ = 1. Needs labeled validation rows.
        heads ([`HeadTraining`], *optional*): settings for training SideNets on the frozen MainNet.
        tune (`str`, *optional*, defaults to `"heads"`):
            `"heads"`: do not change the MainNet. `"joint"`: then fine-tune MainNet and SideNets together.
        joint ([`JointTraining`], *optional*): settings for training them together.
        reference (`str`, *optional*, defaults to `"given"`):
            With `tune="joint"`, the classifier that risks are measured against: `"given"`, the original one, or
            `"tuned"`, the fine-tuned one, whose own accuracy is also reported.
        test_method (`str`, *optional*, defaults to `"paired"`): test of `accuracy_drop`; see [`pvalues`].
        certification_fraction (`float`, *optional*, defaults to 0.75): share of validation rows for certification.
        batch_size (`int`, *optional*, defaults to 32): rows per call, also for timing.
        seed (`int`, *optional*, defaults to 0): seed of the validation split, the SideNets and joint training.
        cache_dir (`str`, *optional*): folder for features, by default `hf_sidenet` in the Hugging Face home.
        accelerator (`Accelerator`, *optional*): distribute feature computation over its processes; each runs the rest.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.
        hub_kwargs (`Any`): other arguments of [`~SideNetPreTrainedModel.from_mainnet`]: `revision`, `token`,
            `device_map`, `trust_remote_code`; `example_inputs`, `id2label` and `code` of a network; and `weights`.

    Returns:
        [`AttachResult`]: the result; "do not attach" is a result, not an error.

    Raises:
        TooFewRowsError: there are too few certification rows for the target; the message says how many are needed.
        ClassOrderError: the labels do not match the MainNet's answers.
        RepeatedRowsError: validation rows repeat training rows more often than fresh rows would.
        ValueError: an argument is invalid, or SideNets cannot be attached to the MainNet.

    Example:

    ```python
    >>> result = attach("my-org/my-classifier", train, validation, test, target="accuracy_drop<=0.01")
    >>> result.verdict, result.model.config.exit_layers
    ('attach', [1, 3])
    ```
    """
    targets = parse_targets(target)
    check_confidence_level(confidence_level)
    for name, value, allowed in (
        ("tune", tune, TUNES),
        ("reference", reference, REFERENCES),
        ("test_method", test_method, TESTS),
    ):
        if value not in allowed:
            raise ArgumentError(name, f"must be one of {allowed}", value)
    if output_dir is not None:
        check_free(output_dir, CHECKPOINT, overwrite=overwrite)
    heads, joint = heads or HeadTraining(seed=seed), joint or JointTraining(seed=seed)
    clock = Clock()

    with clock("loading"):
        given, processor = load_mainnet(mainnet, processor, hub_kwargs, blocks)
        splits = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
        rows = prepare_rows(
            splits,
            given.mainnet.config,
            processor,
            modality=given.modality,
            columns=columns,
            max_length=max_length,
            labels=labels,
            skip_bad_rows=skip_bad_rows,
        )
        classes = rows["train"].classes
        given = at_input_size(given, rows["train"])
        check_labeled(rows, targets)
        chaining = Chaining(sidenets=chain, mainnet=ensemble)
        if ensemble and not rows["validation"].has_labels:
            raise ArgumentError("ensemble", "needs validation rows with labels: without, it would imitate the MainNet")
        split = split_rows(len(rows["validation"]), certification_fraction, seed)
        # Before any expensive work.
        repeats = check_fresh(split, rows["validation"].contents, rows["train"].contents, trust_rows=trust_rows)
        check_targets(targets, confidence_level, test_method, len(split.certification))
        cache = Path(cache_dir or default_cache())
        run = AttachRun(rows, split, targets, cache, batch_size, accelerator, progress, given.task)
        candidates = all_candidates(given, exit_layers, poolings, row=rows["train"].dataset[0])
        mainnet_fingerprint = fingerprint_model(given.mainnet)
    with clock("features"):
        features = {name: run.features(given, name, candidates) for name in ("train", "validation")}
    answered = [run.answered(features["train"], "train"), run.answered(features["validation"], "validation")]
    # A disagreement target does not depend on labels.
    certifies = any(one.uses_labels for one in targets)
    check_class_order(answered, classes, trust_labels=trust_labels, certifies=certifies)
    with clock("heads"):
        trained = run.train_heads(given, processor, features, candidates, heads)
    with clock("placement"):
        placements, table = place_sidenets(
            run,
            given,
            features["validation"],
            trained,
            heads.hidden_size,
            level=level_per_target(targets, confidence_level),
            test=test_method,
            max_exits=max_exits,
            chaining=chaining,
        )
    chosen = placements[0].candidates
    model = attached_model(given, mainnet, chosen, trained, heads, own_mainnet=tune == "joint")
    tell_where_it_runs(model)
    name_classes(model, classes.names)
    if tune == "joint":
        with clock("joint training"):
            teacher = features["train"].mainnet_logits
            tune_jointly(model, rows["train"].dataset, rows["train"].collate_fn, teacher, joint, progress=progress)
    with clock("costs"):
        # Measure time carefully if the target is a time.
        quick = not any(isinstance(one, Budget) and one.is_time for one in targets)
        costs = row_costs(model, rows["validation"], batch_size, which=split.design, quick=quick, progress=progress)
    with clock("calibration"):
        own = features["validation"] if tune == "heads" else run.features(model, "validation", chosen)
        reference_features = features["validation"] if reference == "given" else own
        records = run.records(model, "validation", own, reference_features)
        model.config.chain = chaining.fit(records.select(split.design))
        records = chained_records(records, model.config.chain)
        run.check_live(model, records)
        calibration = calibrate(
            records.select(split.design),
            records.select(split.certification),
            costs,
            targets,
            confidence_level=confidence_level,
            test=test_method,
            mainnet_temperature=None if rows["validation"].has_labels else model.config.temperatures[-1],
        )
    certification = certified_rows(
        records.select(split.certification),
        classes.names,
        calibration.chosen_setting,
        repeats.about(trust_rows),
        has_labels=rows["validation"].has_labels,
        exit_layers=model.config.exit_layers,
    )
    for warning in (*recall_warnings(certification["recalls"]), *certification["notices"]):
        logger.warning(warning)
    # Failed attempts count too: what matters is the number of looks at the rows.
    source = fingerprint_weights(model)
    compared = reference if tune == "joint" else "given"
    look = look_key(
        weights=source,
        targets=targets,
        confidence_level=confidence_level,
        test=test_method,
        reference=other_weights(given.mainnet if compared == "given" else None, model.mainnet),
        split=(seed, certification_fraction),
        chain=model.config.chain,
    )
    num_calibrations = count_looks(cache / LEDGER, split.certifying(rows["validation"].contents), look)
    is_found = calibration.selection.chosen is not None
    if is_found:
        set_calibration(
            model,
            calibration,
            processor,
            length_of(model, processor, max_length),
            reference=compared,
            reference_precision=precision_of(given if compared == "given" else model),
            sidenet_precision=precision_of(model),
            retrained=False,
            seed=seed,
            certification_fraction=certification_fraction,
            validation_fingerprint=rows["validation"].fingerprint,
            repeated_rows=certification["repeated_rows"],
            num_calibrations=num_calibrations,
            look=look,
            source_weights=source,
        )
    evaluation = test_records = None
    if is_found and "test" in rows:
        with clock("evaluation"):
            own = run.features(model, "test", chosen)
            check_class_order([run.answered(own, "test")], classes, trust_labels=trust_labels)
            apart = tune == "joint" and reference == "given"
            reference_features = run.features(given, "test", chosen) if apart else own
            test_records = run.records(model, "test", own, reference_features)
            evaluation = evaluate_records(test_records, costs, model.config, path=_shown(calibration), seed=seed)
    evidence = model.config.calibration if is_found else None
    found = Found(calibration, costs, evidence, certification, rows["validation"], trust_labels)
    report = Report.from_attach(
        found,
        settings={
            "tune": tune,
            "reference": compared,
            "certification_fraction": certification_fraction,
            "max_exits": max_exits,
            "chain": chain,
            "ensemble": ensemble,
            "batch_size": batch_size,
            "max_length": max_length,
            "seed": seed,
            "heads": asdict(heads),
            "joint": asdict(joint) if tune == "joint" else None,
        },
        mainnet={
            "name": model.config.name_or_path,
            "class": type(model.mainnet).__name__,
            "num_labels": model.task.num_outputs(model.config),
            "dtype": precision_of(given),
            "fingerprint": mainnet_fingerprint,
            "validation_accuracy": records.accuracy(features["validation"].mainnet_logits),
        },
        rows=rows,
        candidates=table,
        placements=placement_table(placements),
        evaluation=evaluation,
        seconds=clock.seconds,
    )
    result = AttachResult(
        found.verdict, found.reason, model if is_found else None, processor, report, evaluation, test_records
    )
    if output_dir is not None and is_found and run.is_main:
        result.save(output_dir, overwrite=overwrite)
    return result


def _shown(calibration: Calibration) -> list[list[float]]:
    """Return about forty points of the path, including the chosen one, in order."""
    path, chosen = calibration.path, calibration.chosen_setting
    assert chosen is not None  # Called only if θ was found.
    kept = {round(i * (len(path) - 1) / 39) for i in range(40)}
    return [vector for i, vector in enumerate(path) if i in kept or vector == chosen[0]]
