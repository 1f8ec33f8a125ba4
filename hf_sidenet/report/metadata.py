# SPDX-License-Identifier: Apache-2.0
"""Metadata of a model card for the Hub: task, tags, base model, results."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id


TAGS = ("sidenet", "early-exit")
CURRENCIES = {"flops": "FLOPs", "params": "parameters", "milliseconds": "milliseconds"}


def hub_id(name: str | None) -> str | None:
    """Return the name of a MainNet if it is a Hub id, and `None` for a folder: a local path is useless to others and
    may be private."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def describe(data: ModelCardData, *, task: str, mainnet: str | None, model_name: str) -> None:
    """Add the metadata of a model with SideNets; other fields are kept.

    Args:
        data (`ModelCardData`): metadata, changed in place.
        task (`str`): task name on the Hub; see [`Task.pipelines`].
        mainnet (`str`, *optional*): source of the MainNet; a folder is left out.
        model_name (`str`): name in the model index.
    """
    data.library_name = data.library_name or "transformers"
    tags: list[str] = [*(data.tags or []), *TAGS]
    data.tags = list(dict.fromkeys(tags))
    data.pipeline_tag = task
    if hub_id(mainnet) is not None:
        data.base_model = mainnet
    data.model_name = model_name


def metrics(
    accuracies: Mapping[str, float | None], costs: Mapping[str, float] | None = None
) -> list[tuple[str, str, float]]:
    """Return type, name and value of each metric.

    Args:
        accuracies (`Mapping[str, float | None]`): accuracy by classifier; `None` if unknown.
        costs (`Mapping[str, float]`, *optional*): mean cost per row, as fractions of the MainNet's, by [`CURRENCIES`].
    """
    found = [("accuracy", f"accuracy, {name}", value) for name, value in accuracies.items() if value is not None]
    if costs is not None:
        found += [(key, f"{text} per row, fraction of the MainNet's", costs[key]) for key, text in CURRENCIES.items()]
    return found


def eval_results(
    results: Iterable[tuple[str, str, float]], *, task: str, dataset_type: str, dataset_name: str, split: str
) -> list[EvalResult]:
    """Return results on one data set, for the model index.

    Args:
        results (`Iterable[tuple[str, str, float]]`): type, name and value of each metric.
        task (`str`): task name on the Hub; see [`Task.pipelines`].
        dataset_type (`str`): Hub id of the data set, or its kind.
        dataset_name (`str`): display name.
        split (`str`): split of the data set.
    """
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )
        for metric, name, value in results
    ]
