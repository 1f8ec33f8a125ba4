# SPDX-License-Identifier: Apache-2.0
"""An experiment: one YAML file that sets what is trained, on which data, with which seeds."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_sidenet.models.modalities import IMAGE, TEXT, Modality


EXAMPLES = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "text": EXAMPLES / "text_classification" / "run_text_classification.py",
    "image": EXAMPLES / "image_classification" / "run_image_classification.py",
    "text-cut": Path(__file__).with_name("train_cut.py"),
}
FIELDS = {"base", "task", "group", "seeds", "heads_of", "pooling", "mainnet_of", "arguments"}


@dataclass(frozen=True)
class Experiment:
    """The content of a file under `configs/`.

    Args:
        name (`str`): name of the file.
        task (`str`): `"text"` or `"image"`, which selects the script; `"text-cut"` for texts and a truncated MainNet.
        group (`str`): purpose of the experiment, for example `"joint"`, in tables and figures.
        seeds (`list[int]`): one run each.
        arguments (`dict[str, Any]`): of the script; `$NAME` stands for an environment variable.
        heads_of (`str`, *optional*):
            Name of the experiment whose MainNets get SideNets trained on cached features.
        pooling (`str`): with `heads_of`, how the SideNets read their block.
        mainnet_of (`str`, *optional*): name of the experiment whose MainNets the script starts from.
    """

    name: str
    task: str
    group: str
    seeds: list[int]
    arguments: dict[str, Any]
    heads_of: str | None
    pooling: str
    mainnet_of: str | None

    @property
    def modality(self) -> Modality:
        return IMAGE if self.task == "image" else TEXT

    def folder(self, output_dir: Path, seed: int) -> Path:
        """Return the folder of a run's results."""
        return output_dir / self.name / f"seed-{seed}"

    def words(self, seed: int, folder: Path) -> list[str]:
        """Return the arguments of the script as typed.

        Raises:
            ValueError: an environment variable is not set.
        """
        words = []
        arguments = {**self.arguments, "seed": seed, "output_dir": str(folder)}
        if self.mainnet_of is not None:
            arguments["model_name_or_path"] = str(folder.parents[1] / self.mainnet_of / folder.name)
        for name, value in arguments.items():
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(_expanded(self.name, str(one)) for one in values)]
        return words


def load_experiment(path: Path) -> Experiment:
    """Read a file and the files that its `base` names; the nearer one takes precedence.

    Raises:
        ValueError: the file is missing or not a mapping, or a field is unknown, missing or has the wrong type.
    """
    content = _read(path)
    unknown = sorted(set(content) - FIELDS)
    if unknown:
        raise ValueError(f"{path}: the fields must be among {sorted(FIELDS)}, got {unknown}.")
    missing = sorted({"task", "group", "seeds"} - set(content))
    if missing:
        raise ValueError(f"{path}: {missing} must be given.")
    if content["task"] not in SCRIPTS:
        raise ValueError(f"{path}: `task` must be one of {sorted(SCRIPTS)}, got {content['task']!r}.")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"{path}: `seeds` must be a list of numbers ≥ 0, got {seeds!r}.")
    return Experiment(
        name=path.stem,
        task=content["task"],
        group=content["group"],
        seeds=seeds,
        arguments=content.get("arguments", {}),
        heads_of=content.get("heads_of"),
        pooling=content.get("pooling", "mean"),
        mainnet_of=content.get("mainnet_of"),
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there must be a file {path}, got none.")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: must hold fields, got {content!r}.")
    content = dict(content)
    if "base" in content:
        base = _read(path.parent / content.pop("base"))
        arguments = {**base.get("arguments", {}), **content.get("arguments", {})}
        content = {**base, **content, "arguments": arguments}
    return content


def _expanded(name: str, text: str) -> str:
    def value(match: re.Match) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"experiment {name!r} needs the environment variable {match[1]}, which is not set.")
        return os.environ[match[1]]

    return re.sub(r"\$([A-Z][A-Z0-9_]*)", value, text)
