# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet attach`."""

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .data import DataOptions, listed
from .errors import DO_NOT_ATTACH, CommandError, blaming
from .outcome import Outcome, refuse_source
from .texts import attach_text


@dataclass(frozen=True)
class AttachOptions:
    """What a user said to `attach`; the fields are options by name."""

    mainnet: str
    data: DataOptions
    target: list[str]
    confidence_level: float
    test_method: str
    certification_fraction: float
    max_length: int | None
    exit_layers: str | None
    poolings: str | None
    max_exits: int
    hidden_size: int
    distillation_weight: float | None
    tune: str
    joint: dict[str, float | int]
    reference: str
    batch_size: int
    seed: int
    cache_dir: str | None
    revision: str | None
    dtype: str | None
    output_dir: str
    overwrite: bool


def attach_command(options: AttachOptions) -> Outcome:
    """Attach, and say what was found; see [`attach`]."""
    exit_layers = listed("--exit-layers", options.exit_layers, int)
    poolings = listed("--poolings", options.poolings)
    _check_joint(options)
    refuse_source(options.output_dir, MAINNET=options.mainnet, **_sources(options.data))
    # Here, since they take seconds to import.
    import torch
    from transformers import AutoConfig

    from ..attaching.attach import attach
    from ..calibration import parse_targets
    from ..hub.push import CHECKPOINT
    from ..io.folders import check_free
    from ..training.heads import HeadTraining
    from ..training.joint import JointTraining

    # What is wrong is said before rows are read.
    parse_targets(options.target)
    check_free(options.output_dir, CHECKPOINT, overwrite=options.overwrite)
    hub_kwargs: dict[str, Any] = {} if options.revision is None else {"revision": options.revision}
    with blaming("MAINNET"):
        AutoConfig.from_pretrained(options.mainnet, **hub_kwargs)
    if options.dtype is not None:
        hub_kwargs["dtype"] = getattr(torch, options.dtype)
    splits, columns = options.data.load(("train", "validation"), ("test",))
    shared: dict[str, Any] = {"seed": options.seed}
    if options.distillation_weight is not None:
        shared["distillation_weight"] = options.distillation_weight
    with (
        enough_rows(options.data.spelt("validation"), options.certification_fraction),
        options.data.blaming(),
        blaming("MAINNET", when="`model_name_or_path`"),
    ):
        result = attach(
            options.mainnet,
            splits["train"],
            splits["validation"],
            splits.get("test"),
            target=options.target,
            confidence_level=options.confidence_level,
            output_dir=options.output_dir,
            overwrite=options.overwrite,
            columns=columns,
            **options.data.about_labels,
            trust_rows=options.data.trust_rows,
            max_length=options.max_length,
            exit_layers=exit_layers,
            poolings=poolings,
            max_exits=options.max_exits,
            heads=HeadTraining(hidden_size=options.hidden_size, **shared),
            tune=options.tune,
            joint=JointTraining(**options.joint, **shared),
            reference=options.reference,
            test_method=options.test_method,
            certification_fraction=options.certification_fraction,
            batch_size=options.batch_size,
            seed=options.seed,
            cache_dir=options.cache_dir,
            **hub_kwargs,
        )
    config = None if result.model is None else result.model.config
    directory = None if config is None else options.output_dir
    document = {
        **result.report,
        "output_dir": directory,
        "exit_layers": config and config.exit_layers,
        "pooling": config and config.pooling,
        "thresholds": config and config.thresholds,
        "temperatures": config and config.temperatures,
    }
    return Outcome(document, attach_text(document), 0 if config else DO_NOT_ATTACH)


@contextmanager
def enough_rows(option: str, fraction: float):
    """Say how many validation rows would do."""
    from ..calibration import TooFewRowsError

    try:
        yield
    except TooFewRowsError as error:
        raise CommandError(
            f"{option}: must have about {math.ceil(error.needed / fraction):,} rows or more. {error}"
        ) from error


def _check_joint(options: AttachOptions) -> None:
    given = [f"--joint-{name.removeprefix('num_').replace('_', '-')}" for name in options.joint]
    if options.reference != "given":
        given.append("--reference tuned")
    if given and options.tune != "joint":
        raise CommandError(f"{given[0]}: needs --tune joint, got --tune {options.tune}.")


def _sources(data: DataOptions) -> dict[str, str | None]:
    return {**{f"--{split}-file": path for split, path in data.files.items()}, "--dataset-name": data.dataset_name}
