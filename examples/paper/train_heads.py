# SPDX-License-Identifier: Apache-2.0
"""SideNets on a frozen MainNet, from cached features (Morisot, arXiv 2007.13512, §3: "the MainNet is frozen")."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from experiments import Experiment
from record import RUN, SPLITS, costs_of, write_run
from rows import parse, rows_of

from hf_sidenet.attaching.steps import Trained, at_input_size, attached_model, load_mainnet
from hf_sidenet.training.features import Candidate, Features, cache_features, default_candidates
from hf_sidenet.training.heads import HeadData, HeadTraining, cached_records, train_heads


# One of this many training rows is used for early stopping of the SideNets.
HELD = 10


def train_frozen(experiment: Experiment, seed: int, mainnet: Path, folder: Path, origin: Mapping[str, Any]) -> None:
    """Train the SideNets of one run and record them. Early stopping uses a tenth of the training rows, so that
    validation rows are not used for training.

    Features of every placement are cached next to the MainNet, for all experiments that read them.

    Args:
        experiment ([`Experiment`]): with `exit_layers` among its arguments.
        seed (`int`): of the SideNets; the MainNet is the one trained with it.
        mainnet (`Path`): folder of that run.
        folder (`Path`): for the results.
        origin (`Mapping[str, Any]`): date, commit, versions and hardware.

    Raises:
        ValueError: that run is unfinished.
    """
    if not (mainnet / RUN).exists():
        raise ValueError(f"{experiment.name!r} needs the finished run {mainnet}, which is not there.")
    start = time.perf_counter()
    words = experiment.words(seed, folder)
    rows = rows_of(experiment, words, mainnet)
    sidenet_args = parse(words, experiment.modality)[2]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given, _ = load_mainnet(str(mainnet), None, {})
    given = at_input_size(given, rows["train"]).to(device)
    candidates = default_candidates(given)
    features = {
        name: cache_features(
            given,
            of.dataset,
            mainnet / "features",
            collate_fn=of.collate_fn,
            candidates=candidates,
            data_fingerprint=of.fingerprint,
            description=f"Features of {name} rows",
        )
        for name, of in rows.items()
    }
    chosen = [
        candidate
        for candidate in candidates
        if candidate.exit_layer in sidenet_args.exit_layers and candidate.pooling == experiment.pooling
    ]
    if len(chosen) != len(sidenet_args.exit_layers):
        there = sorted({candidate.pooling for candidate in candidates})
        raise ValueError(f"`pooling` of {experiment.name!r} must be one of {there}, got {experiment.pooling!r}.")
    held = torch.arange(len(rows["train"])) % HELD == 0
    settings = HeadTraining(
        seed=seed,
        distillation_weight=sidenet_args.distillation_weight,
        distillation_temperature=sidenet_args.distillation_temperature,
    )
    trained = train_heads(_data(features["train"], chosen, ~held), _data(features["train"], chosen, held), settings)
    model = attached_model(given, str(mainnet), chosen, Trained(trained, {}), settings, own_mainnet=False)
    model = model.eval().to(device)
    for split in SPLITS:
        of = features[split]
        records = cached_records(of, chosen, [trained[c] for c in chosen], of.labels)
        records.save(folder / f"{split}_records.safetensors")
    model.save_pretrained(folder)
    origin = {**origin, "seconds": round(time.perf_counter() - start, 1)}
    write_run(experiment, seed, folder, words, rows, costs_of(model, rows["test"]), origin)


def _data(features: Features, chosen: list[Candidate], which: torch.Tensor) -> HeadData:
    inputs = {candidate: features.features(candidate)[which] for candidate in chosen}
    return HeadData(inputs, features.mainnet_logits[which].float(), features.labels[which])
