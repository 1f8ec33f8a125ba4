# SPDX-License-Identifier: Apache-2.0
"""Finished runs, as written by `train.py`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from record import RUN
from safetensors.torch import load_file

from hf_sidenet.calibration import fit_temperatures
from hf_sidenet.evaluation import CurvePoint
from hf_sidenet.measurement import ExitCosts, ExitRecords, correct_rows


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        folder (`Path`): its folder.
        about (`dict[str, Any]`): its `run.json`.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the experiment."""
        return self.about["name"]

    @property
    def seed(self) -> int:
        return self.about["seed"]

    @cached_property
    def has_exits(self) -> bool:
        """Return whether it is a model with SideNets rather than a plain classifier."""
        return "params" in self.about["costs"]

    @cached_property
    def exit_layers(self) -> list[int]:
        """Return the blocks before each SideNet; an empty list for a plain classifier."""
        if not self.has_exits:
            return []
        return json.loads((self.folder / "config.json").read_text())["exit_layers"]

    @cached_property
    def costs(self) -> ExitCosts:
        """Return the costs of a model with SideNets."""
        return ExitCosts(**self.about["costs"])

    @cached_property
    def validation(self) -> ExitRecords:
        """Return the rows on which θ, temperatures and exits are chosen."""
        return ExitRecords.load(self.folder / "validation_records.safetensors")

    @cached_property
    def test(self) -> ExitRecords:
        """Reported only."""
        return ExitRecords.load(self.folder / "test_records.safetensors")

    @cached_property
    def temperatures(self) -> list[float]:
        """Return the temperatures, one per exit, fitted on the validation rows."""
        return fit_temperatures(self.validation.exit_logits, self.validation.labels)

    @cached_property
    def curves(self) -> dict[tuple, list[CurvePoint]]:
        """Cache the results of `choose.curve`, which several tables need."""
        return {}

    def logits(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of the MainNet, or of a plain classifier, and the labels."""
        if self.has_exits:
            records = getattr(self, split)
            return records.mainnet_logits, records.labels
        found = load_file(self.folder / f"{split}_logits.safetensors")
        return found["logits"], found["labels"]

    def mainnet_correct(self, split: str = "test") -> torch.Tensor:
        """Return which rows the MainNet answers correctly, bools of shape `(num_rows,)`."""
        return correct_rows(*self.logits(split))


def load_run(folder: Path, name: str) -> Run:
    """Load a finished run of one experiment, with SideNets.

    Raises:
        ValueError: the run is unfinished, from another experiment, or of a model without SideNets.
    """
    if not (folder / RUN).is_file():
        raise ValueError(f"RUN_FOLDER must be a finished run of train.py, with a {RUN}, got {folder}.")
    run = Run(folder, json.loads((folder / RUN).read_text(encoding="utf-8")))
    if run.name != name:
        raise ValueError(f"--config must be the one that {folder} was trained by, {run.name!r}, got {name!r}.")
    if not run.has_exits:
        raise ValueError(f"RUN_FOLDER must be of a model with SideNets, got {folder} of a MainNet alone.")
    return run


def load_runs(output_dir: Path) -> list[Run]:
    """Load every finished run, by name and seed.

    Raises:
        ValueError: there are no runs, or the labels of two runs of one task differ.
    """
    runs = [
        Run(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in output_dir.glob(f"*/seed-*/{RUN}")
    ]
    if not runs:
        raise ValueError(f"`output_dir` must hold finished runs of train.py, got {str(output_dir)!r} with none.")
    for run in runs:
        first = next(other for other in runs if other.about["task"] == run.about["task"])
        for split in ("validation", "test"):
            # Not fingerprints: tokenizers and sizes of pictures may differ.
            if not torch.equal(run.logits(split)[1], first.logits(split)[1]):
                raise ValueError(
                    f"all runs must have the same {split} rows, but {run.folder} and {first.folder} differ."
                )
    return sorted(runs, key=lambda run: (run.name, run.seed))


def with_exits(runs: Iterable[Run]) -> list[Run]:
    """Return the runs with SideNets."""
    return [run for run in runs if run.has_exits]


def of(runs: Iterable[Run], name: str) -> dict[int, Run]:
    """Return the runs of one experiment by seed."""
    return {run.seed: run for run in runs if run.name == name}
