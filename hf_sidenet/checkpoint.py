# SPDX-License-Identifier: Apache-2.0
"""What can be done with a checkpoint that has SideNets: evaluate it, and calibrate it again for another target or on
other rows, without training."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader, Subset
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from . import models
from .calibration import (
    TESTS,
    Calibration,
    Target,
    calibrate,
    check_targets,
    count_calibration,
    parse_targets,
    split_rows,
)
from .data import Columns, load_processor
from .data.rows import Rows, prepare_rows
from .evaluation import ExitEvaluation
from .measurement import ExitCosts, ExitRecords, collect, measure_costs
from .measurement.fingerprint import fingerprint_model
from .models.configuration_sidenet import SideNetConfig
from .models.modeling_base import SideNetPreTrainedModel


logger = logging.get_logger(__name__)

# Of report.json; it rises when a field changes its meaning.
REPORT_VERSION = 1
# Batches to count, batches to time, repeats.
COSTS, QUICK_COSTS = (8, 4, 5), (3, 2, 1)
# Of a calibration that says neither.
DEFAULT_SEED, DEFAULT_FRACTION = 0, 0.75


@dataclass(frozen=True)
class Recalibration:
    """What [`recalibrate`] found.

    Args:
        verdict (`str`): `"attach"`, or `"do not attach"` where no threshold meets the target and saves anything.
        reason (`str`): why, in a sentence.
        model (`PreTrainedModel`): with the new temperatures, θ and evidence; unchanged for "do not attach".
        calibration ([`Calibration`]): the path, and what the certification rows said.
        costs ([`ExitCosts`]): measured anew, on these rows and this machine.
    """

    verdict: str
    reason: str
    model: PreTrainedModel
    calibration: Calibration
    costs: ExitCosts


def sidenet_class(config: PretrainedConfig) -> type[SideNetPreTrainedModel]:
    """The class of models with SideNets for a MainNet, the one that carries its name where there is one.

    Args:
        config (`PretrainedConfig`): of the MainNet.
    """
    return getattr(models, SideNetConfig(config).architectures[0])


def load_checkpoint(path: str | os.PathLike, **hub_kwargs: Any) -> tuple[SideNetPreTrainedModel, Any]:
    """A checkpoint with SideNets, by this package's own classes, and its tokenizer or image processor.

    Args:
        path (`str`): folder or Hub id.
        hub_kwargs (`Any`): of `from_pretrained`: `revision`, `token`, `dtype`, ...

    Raises:
        ValueError: it has no SideNets, or no processor.
    """
    names = {name: value for name, value in hub_kwargs.items() if name in ("revision", "token")}
    config = SideNetConfig.from_pretrained(path, **names)
    model = getattr(models, config.architectures[0]).from_pretrained(path, **hub_kwargs)
    return model.eval(), load_processor(str(path), model.is_text, **names)


def evaluate_checkpoint(
    model: SideNetPreTrainedModel,
    processor: Any,
    test: Any,
    *,
    reference: PreTrainedModel | None = None,
    columns: Columns | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    num_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> tuple[ExitEvaluation, ExitRecords]:
    """Everything that test rows say about a checkpoint at its own θ.

    Args:
        model ([`SideNetPreTrainedModel`]): a checkpoint with SideNets.
        processor (tokenizer or image processor): its own.
        test (`datasets.Dataset`): raw rows, or model inputs, with labels.
        reference (`PreTrainedModel`, *optional*): the classifier to compare with, by default the MainNet inside.
        columns ([`Columns`], *optional*): of raw rows; by default they are looked for.
        max_length (`int`, *optional*): longer texts are cut, in tokens.
        batch_size (`int`, *optional*, defaults to 32): rows per call, and the batch size that is timed.
        num_resamples (`int`, *optional*, defaults to 1000): of the bootstrap.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.
    """
    rows = _prepared(model, processor, test, "test", columns, max_length)
    costs = row_costs(model, rows, batch_size, progress=progress)
    records = _collected(model, rows, reference, batch_size, progress)
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
    """[`ExitEvaluation`] at the θ and temperatures of a config."""
    return ExitEvaluation.from_records(
        records,
        costs,
        thresholds=config.thresholds,
        temperatures=config.temperatures,
        path=path,
        num_resamples=num_resamples,
        seed=seed,
    )


def recalibrate(
    model: SideNetPreTrainedModel,
    processor: Any,
    validation: Any,
    *,
    target: str | Target | Sequence[str | Target],
    confidence_level: float = 0.95,
    test_method: str = "paired",
    train: Any = None,
    reference: PreTrainedModel | None = None,
    columns: Columns | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Recalibration:
    """New temperatures and θ for another target, on other rows or on another machine. Nothing learns.

    The rows are split as they were when the SideNets were attached (same seed and share), so that rows which stopped
    the training do not certify. Another calibration on the same rows is counted in the evidence.

    Args:
        model ([`SideNetPreTrainedModel`]): changed only where a threshold is found.
        processor (tokenizer or image processor): its own.
        validation (`datasets.Dataset`): rows that trained neither MainNet nor SideNets.
        target (`str` or `list[str]`): see [`Target`].
        confidence_level (`float`, *optional*, defaults to 0.95): probability with which guaranteed targets hold.
        test_method (`str`, *optional*, defaults to `"paired"`): the test of `accuracy_drop`; see [`pvalues`].
        train (`datasets.Dataset`, *optional*): the training rows, so that equal ones are left out.
        reference (`PreTrainedModel`, *optional*): the classifier to compare with, by default the MainNet inside.
        columns ([`Columns`], *optional*): of raw rows; by default they are looked for.
        max_length (`int`, *optional*): longer texts are cut, in tokens.
        batch_size (`int`, *optional*, defaults to 32): rows per call, and the batch size that is timed.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Raises:
        TooFewRowsError: the certification rows cannot certify the target; it says how many are needed.
        ValueError: an argument is impossible.
    """
    targets = parse_targets(target)
    if test_method not in TESTS:
        raise ValueError(f"`test_method` must be one of {TESTS}, got {test_method!r}.")
    before = model.config.calibration or {}
    seed = before.get("seed", DEFAULT_SEED)
    fraction = before.get("certification_fraction", DEFAULT_FRACTION)
    rows = _prepared(model, processor, validation, "validation", columns, max_length)
    known = set() if train is None else set(_prepared(model, processor, train, "train", columns, max_length).keys)
    split = split_rows(rows.keys, fraction, seed, known)
    check_targets(targets, confidence_level, test_method, len(split.certification))
    if before and before.get("validation_fingerprint") != rows.fingerprint:
        logger.warning(
            "These are not the validation rows of the last calibration: they must hold none of the rows that the "
            "SideNets were stopped on, which cannot be seen here."
        )
    costs = row_costs(model, rows, batch_size, which=split.design, progress=progress)
    records = _collected(model, rows, reference, batch_size, progress)
    calibration = calibrate(
        records.select(split.design),
        records.select(split.certification),
        costs,
        targets,
        confidence_level=confidence_level,
        test=test_method,
    )
    # A try that finds nothing counts as well: looking again and again is what has to be known.
    about = {
        "model": fingerprint_model(model),
        "target": [str(one) for one in targets],
        "confidence_level": confidence_level,
        "test_method": test_method,
    }
    counted = count_calibration(default_cache() / "calibrations", rows.fingerprint, about)
    selection = calibration.selection
    if selection.chosen is None:
        return Recalibration("do not attach", selection.reason, model, calibration, costs)
    again = before.get("validation_fingerprint") == rows.fingerprint
    set_calibration(
        model,
        calibration,
        reference="inside" if reference is None else "other",
        seed=seed,
        certification_fraction=fraction,
        validation_fingerprint=rows.fingerprint,
        num_known_rows_left_out=split.num_known,
        num_calibrations=max(counted, before.get("num_calibrations", 0) + 1 if again else 1),
    )
    return Recalibration("attach", selection.reason, model, calibration, costs)


def default_cache() -> Path:
    """Where features and the count of calibrations are kept."""
    return Path(HF_HOME) / "hf_sidenet"


def set_calibration(model: SideNetPreTrainedModel, calibration: Calibration, **about: Any) -> None:
    """Write temperatures, θ and the evidence into a model's config.

    Args:
        model ([`SideNetPreTrainedModel`]): changed in place.
        calibration ([`Calibration`]): with a chosen point.
        about (`Any`): what the evidence says beside it: the rows, the reference.
    """
    evidence = calibration.evidence(
        **about,
        precision=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        attn_implementation=model.config._attn_implementation,
        versions=versions(),
    )
    model.config.thresholds = calibration.selection.chosen.thresholds
    model.config.temperatures = calibration.temperatures
    model.config.calibration = evidence


def row_costs(
    model: SideNetPreTrainedModel,
    rows: Rows,
    batch_size: int,
    *,
    which: torch.Tensor | None = None,
    quick: bool = False,
    progress: bool = True,
) -> ExitCosts:
    """Costs of every exit on a few batches of rows as they come.

    Args:
        model ([`SideNetPreTrainedModel`]): with its SideNets.
        rows ([`Rows`]): whose first batches are taken.
        batch_size (`int`): rows per call.
        which (`torch.LongTensor`, *optional*): numbers of the rows to take, by default all.
        quick (`bool`): fewer batches and repeats; FLOPs hardly change with the batch, milliseconds do.
        progress (`bool`): show progress bars.
    """
    count, timed, repeats = QUICK_COSTS if quick else COSTS
    batches = typical_batches(rows, batch_size, count, which)
    return measure_costs(model, batches, repeats=repeats, timed_batches=timed, progress=progress)


def typical_batches(
    rows: Rows, batch_size: int, count: int, which: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """The first batches of rows as they come, out of all or of those with the numbers `which`."""
    dataset = rows.dataset if which is None else Subset(rows.dataset, which.tolist())
    loader = DataLoader(dataset, batch_size, collate_fn=rows.collate_fn)
    return [dict(batch) for batch in islice(loader, count)]


def versions() -> dict[str, str]:
    """Of everything that answers may depend on."""
    found = {"python": platform.python_version()}
    for package in ("hf_sidenet", "torch", "transformers", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _prepared(
    model: SideNetPreTrainedModel,
    processor: Any,
    rows: Any,
    name: str,
    columns: Columns | None,
    max_length: int | None,
) -> Rows:
    prepared = prepare_rows(
        {name: rows}, model.config, processor, is_text=model.is_text, columns=columns, max_length=max_length
    )
    return prepared[name]


def _collected(
    model: SideNetPreTrainedModel, rows: Rows, reference: PreTrainedModel | None, batch_size: int, progress: bool
) -> ExitRecords:
    loader = DataLoader(rows.dataset, batch_size, collate_fn=rows.collate_fn)
    return collect(model, loader, reference=reference, progress=progress)
