# SPDX-License-Identifier: Apache-2.0
"""Run experiments of `configs/`: train with the Trainer, then record what every exit says of validation and test rows.

A run that is finished is left as it is; one that was killed goes on from its last epoch.

usage: train.py CONFIG.yaml [CONFIG.yaml ...] [--seeds 0 1] [--output_dir outputs/paper]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from experiments import SCRIPTS, Experiment, load_experiment
from record import RUN, record
from train_heads import train_frozen
from transformers.trainer_utils import get_last_checkpoint


ARGUMENTS = "arguments.json"
TRAINED = "config.json"


def run(experiment: Experiment, seed: int, output_dir: Path) -> None:
    """One run of an experiment, from where it stands.

    Raises:
        ValueError: its folder holds a run with other arguments.
        RuntimeError: training failed.
    """
    folder = experiment.folder(output_dir, seed)
    words = experiment.words(seed, folder)
    _check_same(folder, words)
    if (folder / RUN).exists():
        print(f"{folder}: done")
        return
    if experiment.heads_of is not None:
        mainnet = output_dir / experiment.heads_of / f"seed-{seed}"
        train_frozen(experiment, seed, mainnet, folder)
        return
    start = time.perf_counter()
    if not (folder / TRAINED).exists():
        _train(SCRIPTS[experiment.task], words, folder)
    record(experiment, seed, folder, words, time.perf_counter() - start)


def _check_same(folder: Path, words: list[str]) -> None:
    """Arguments are written before anything else, so that a run is never continued by another one."""
    path = folder / ARGUMENTS
    if path.exists():
        found = json.loads(path.read_text())
        if found != words:
            changed = sorted(set(found) ^ set(words))
            raise ValueError(f"{folder} must be a run with these arguments, or new; others there: {changed}.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(words, indent=1))


def _train(script: Path, words: list[str], folder: Path) -> None:
    command = [sys.executable, str(script), *words, "--do_train"]
    last = get_last_checkpoint(str(folder))
    if last is not None:
        print(f"{folder}: goes on from {Path(last).name}", flush=True)
        command += ["--resume_from_checkpoint", last]
    code = subprocess.run(command).returncode
    if code != 0:
        raise RuntimeError(f"training of {folder} must end with 0, got {code}; run this again to go on.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path, help="files under configs/")
    parser.add_argument("--seeds", nargs="+", type=int, help="some of the experiment's, by default all")
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
