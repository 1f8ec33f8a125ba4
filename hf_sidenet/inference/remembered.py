# SPDX-License-Identifier: Apache-2.0
"""Remember which routing was fastest: one small file in the cache per checkpoint, machine and settings.

A checkpoint is recognized by its config and SideNets; the MainNet, which may be large, is not read. A wrong match
could only cost time: no answer depends on the routing.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..evaluation.provenance import cpu_name, versions
from ..io.cache import default_cache
from ..io.files import replacing
from ..io.fingerprint import fingerprint_exits
from ..io.json import json_text, read_object
from ..models.transformers_private import attention_of
from .precision import precision_of
from .settled import Settled


logger = logging.get_logger(__name__)
FOLDER = "routings"
# Of the file; files of another version are ignored and replaced.
VERSION = 1


def setting_of(settled: Settled, batch_size: int) -> dict[str, Any]:
    """Return everything that the fastest routing is expected to depend on, besides the rows.

    Args:
        settled ([`Settled`]): the model and its engines.
        batch_size (`int`): rows per batch at stage 0.
    """
    stages = settled.stages
    found = versions()
    return {
        "checkpoint": fingerprint_exits(stages.config, getattr(settled.certified, "sidenets", None)),
        "thresholds": list(settled.thresholds),
        "stages": type(stages).__name__,
        "compile": str(settled.compile),
        "precision": precision_of(stages),
        "attention": str(attention_of(stages.config.mainnet_config)),
        "device": str(stages.device),
        "machine": _machine(stages.device),
        "versions": {name: found[name] for name in ("hf_sidenet", "torch", "transformers") if name in found},
        "batch_size": batch_size,
        "pool_size": settled.pool_size,
        "routings": sorted(settled.makers),
    }


def recall(setting: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds per row of each routing that were measured before; empty if there are none.

    Args:
        setting (`dict[str, Any]`): from [`setting_of`].
    """
    path = _path(setting)
    try:
        found = read_object(path)
        times = found["times"]
        if found["version"] == VERSION and found["setting"] == setting and _is_valid(times, setting):
            return times
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError):
        pass
    logger.info("%s is damaged or of another version, and is ignored.", path)
    return {}


def remember(setting: dict[str, Any], times: dict[str, float]) -> None:
    """Write the milliseconds per row of each routing, replacing older ones. It is no error if that is not possible.

    Args:
        setting (`dict[str, Any]`): from [`setting_of`].
        times (`dict[str, float]`): milliseconds per row.
    """
    path = _path(setting)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json_text({"version": VERSION, "setting": setting, "times": times}), encoding="utf-8")
    except OSError as error:
        logger.info("The choice of the routing is not remembered: %s", error)


def _machine(device: torch.device) -> str:
    found = f"{cpu_name()}, {torch.get_num_threads()} threads"
    # On a CPU, CUDA is not asked: afterward, a forked process could not use it.
    return f"{found}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else found


def _is_valid(times: Any, setting: dict[str, Any]) -> bool:
    return (
        isinstance(times, dict)
        and len(times) > 0
        and set(times) <= set(setting["routings"])
        and all(isinstance(each, float) and 0 < each < math.inf for each in times.values())
    )


def _path(setting: dict[str, Any]) -> Path:
    key = hashlib.blake2b(json.dumps(setting, sort_keys=True).encode(), digest_size=16).hexdigest()
    return default_cache() / FOLDER / f"{key}.json"
