# SPDX-License-Identifier: Apache-2.0
"""The weights of a checkpoint: in safetensors, whole, and those that the config needs."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..models.configuration_sidenet import SideNetConfig
from .findings import Shareable
from .shared_files import PICKLED


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_weights(folder: Path, config: SideNetConfig | None, found: Shareable) -> None:
    """Read the names of all weights, and compare them with the config.

    Args:
        folder (`Path`): the checkpoint.
        config ([`SideNetConfig`], *optional*): `None` where it cannot be read.
        found ([`Shareable`]): gets what is found.
    """
    pickled = [name for name in found.left_out if "/" not in name and name.lower().endswith(PICKLED)]
    if WEIGHTS in found.files:
        names = _names(folder, WEIGHTS, found)
    elif INDEX in found.files:
        names = _sharded_names(folder, found)
    else:
        instead = (
            f" {', '.join(pickled)}: pickled, never uploaded, since loading it can run code. Load it here and save it "
            "again with save_pretrained."
            if pickled
            else ""
        )
        found.errors.append(f"there are no weights: {WEIGHTS} is missing.{instead}")
        return
    if pickled:
        found.notes.append(f"{', '.join(pickled)}: pickled, stays here.")
    if names is None or config is None:
        return
    num_sidenets = len({name.split(".")[1] for name in names if name.startswith("sidenets.")})
    if num_sidenets != len(config.exit_layers):
        found.errors.append(
            f"the weights have {num_sidenets} SideNets, but config.json has {len(config.exit_layers)} `exit_layers`."
        )
    if not any(name.startswith("mainnet.") for name in names):
        found.errors.append("the weights have no MainNet: no name begins with 'mainnet.'.")


def _names(folder: Path, file: str, found: Shareable) -> set[str] | None:
    try:
        with safe_open(folder / file, framework="pt") as tensors:
            return set(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        found.errors.append(f"{file} is no whole safetensors file: {' '.join(str(error).split())}.")
        return None


def _sharded_names(folder: Path, found: Shareable) -> set[str] | None:
    try:
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        by_file: dict[str, set[str]] = {}
        for name, file in shards.items():
            if not isinstance(file, str):
                raise TypeError(f"{file!r} is no name of a file")
            by_file.setdefault(file, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found.errors.append(f"{INDEX} must be JSON with a 'weight_map' from weights to files.")
        return None
    names: set[str] = set()
    for file, expected in sorted(by_file.items()):
        if file not in found.files:
            found.errors.append(f"{INDEX} names {file}, which is missing.")
            continue
        there = _names(folder, file, found)
        if there is None:
            continue
        missing = sorted(expected - there)
        if missing:
            found.errors.append(f"{file} lacks {missing[0]}, which {INDEX} says is there.")
        names |= there
    return names if set(by_file) <= set(found.files) else None
