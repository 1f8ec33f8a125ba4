# SPDX-License-Identifier: Apache-2.0
"""Run experiments of `configs/`: train with the Trainer, then record every exit's logits for validation and test rows.

A finished run is left unchanged; a killed one continues from its last complete checkpoint.

usage: train.py CONFIG.yaml [CONFIG.yaml ...] [--seeds 0 1] [--output_dir outputs/paper]
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from experiments import SCRIPTS, Experiment, load_experiment
from record import RUN, record
from train_heads import train_frozen

from hf_sidenet.evaluation.provenance import commit, hardware, versions
from hf_sidenet.io.files import replacing


STARTED = "started.json"
TRAINED = "trained.json"


def run(experiment: Experiment, seed: int, output_dir: Path) -> None:
    """Run one seed of an experiment, from its current state.

    Raises:
        ValueError: its folder contains a run of something else.
        RuntimeError: training failed.
    """
    folder = experiment.folder(output_dir, seed)
    words = experiment.words(seed, folder)
    origin = _start(experiment, words, folder)
    if (folder / RUN).exists():
        print(f"{folder}: done")
        return
    if experiment.heads_of is not None:
        train_frozen(experiment, seed, output_dir / experiment.heads_of / f"seed-{seed}", folder, origin)
        return
    if not (folder / TRAINED).exists():
        start = time.perf_counter()
        _train(SCRIPTS[experiment.task], words, folder)
        _write(folder / TRAINED, {"seconds": round(time.perf_counter() - start, 1)})
    origin |= json.loads((folder / TRAINED).read_text())
    record(experiment, seed, folder, words, origin)


def _start(experiment: Experiment, words: list[str], folder: Path) -> dict[str, Any]:
    """Record the run's provenance before anything else, so that no other run ever continues it."""
    path = folder / STARTED
    what = {**asdict(experiment), "seeds": None, "arguments": words[: words.index("--output_dir")]}
    if path.exists():
        found = json.loads(path.read_text())
        changed = {key: (found["experiment"].get(key), value) for key, value in what.items()}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        if changed:
            told = "; ".join(f"`{key}` was {was}, got {now}" for key, (was, now) in changed.items())
            raise ValueError(f"{folder} must be a run of the same experiment, or new: {told}.")
        return found["origin"]
    origin = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "versions": versions("accelerate", "datasets"),
        "hardware": hardware(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, {"experiment": what, "origin": origin})
    return origin


def _train(script: Path, words: list[str], folder: Path) -> None:
    command = [sys.executable, str(script), *words, "--do_train"]
    # The Trainer writes its state last.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    if whole:
        last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
        print(f"{folder}: continues from {last.name}", flush=True)
        command += ["--resume_from_checkpoint", str(last)]
    code = subprocess.run(command).returncode
    if code != 0:
        raise RuntimeError(f"training of {folder} must end with 0, got {code}; run this again to go on.")


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path, help="files under configs/")
    parser.add_argument("--seeds", nargs="+", type=int, help="a subset of the experiment's seeds, by default all")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/paper"))
    args = parser.parse_args()
    try:
        for experiment in [load_experiment(path) for path in args.configs]:
            for seed in experiment.seeds if args.seeds is None else args.seeds:
                run(experiment, seed, args.output_dir)
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
