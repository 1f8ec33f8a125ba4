# SPDX-License-Identifier: Apache-2.0
"""SideNets on a frozen MainNet, from cached features (Morisot, arXiv 2007.13512, §3: "the MainNet is frozen")."""

import time
from pathlib import Path

from experiments import Experiment
from record import SPLITS, costs_of, write_run
from rows import parse, rows_of

from hf_sidenet.attach_steps import at_input_size, attached_model, load_mainnet
from hf_sidenet.training.features import cache_features, default_candidates
from hf_sidenet.training.heads import HeadData, HeadTraining, cached_records, train_heads


def train_frozen(experiment: Experiment, seed: int, mainnet: Path, folder: Path) -> None:
    """Train the SideNets of one run, stopped on validation rows, and record them.

    Features of every place are cached beside the MainNet, for all experiments that read them.

    Args:
        experiment ([`Experiment`]): with `exit_layers` among its arguments.
        seed (`int`): of the SideNets; the MainNet is the one trained with it.
        mainnet (`Path`): folder of that run.
        folder (`Path`): where results go.

    Raises:
        ValueError: that run is not finished.
    """
    if not (mainnet / "run.json").exists():
        raise ValueError(f"{experiment.name!r} needs the finished run {mainnet}, which is not there.")
    start = time.perf_counter()
    words = experiment.words(seed, folder)
    rows = rows_of(experiment, words, mainnet)
    exit_layers = parse(words, experiment.is_text)[2].exit_layers
    given, _ = load_mainnet(str(mainnet), None, {})
    given = at_input_size(given, rows["train"])
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
        if candidate.exit_layer in exit_layers and candidate.pooling in experiment.poolings
    ]
    data = {
        name: HeadData({c: of.features(c) for c in chosen}, of.mainnet_logits.float(), of.labels)
        for name, of in features.items()
        if name != "test"
    }
    settings = HeadTraining(seed=seed)
    trained = train_heads(data["train"], data["validation"], settings)
    model = attached_model(given, str(mainnet), chosen, trained, settings, own_mainnet=False).eval()
    for split in SPLITS:
        of = features[split]
        records = cached_records(of, chosen, [trained[c] for c in chosen], of.labels)
        records.save(folder / f"{split}_records.safetensors")
    model.save_pretrained(folder)
    write_run(experiment, seed, folder, words, rows, costs_of(model, rows["test"]), time.perf_counter() - start)
