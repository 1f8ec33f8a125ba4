# SPDX-License-Identifier: Apache-2.0
"""The part of a model card that the Hub reads: task, tags, base model, results."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id


TAGS = ("sidenet", "early-exit")
CURRENCIES = {"flops": "FLOPs", "params": "parameters", "milliseconds": "milliseconds"}


def hub_id(name: str | None) -> str | None:
    """The name of a MainNet where it is an id on the Hub; `None` for a folder, which others cannot follow and which
    may tell what they should not read."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def describe(data: ModelCardData, *, task: str, mainnet: str | None, model_name: str) -> None:
    """Say what a model with SideNets is; what a card says beside that stays.

    Args:
        data (`ModelCardData`): changed in place.
        task (`str`): as the Hub calls it; see [`Task.pipelines`].
        mainnet (`str`, *optional*): where the MainNet came from; a folder is left out.
        model_name (`str`): of the model index.
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
        accuracies (`Mapping[str, float | None]`): by what answers; `None` where it is not known.
        costs (`Mapping[str, float]`, *optional*): mean per row, as fractions of the MainNet's, by [`CURRENCIES`].
    """
    found = [("accuracy", f"accuracy, {name}", value) for name, value in accuracies.items() if value is not None]
    if costs is not None:
        found += [(key, f"{text} per row, fraction of the MainNet's", costs[key]) for key, text in CURRENCIES.items()]
    return found


def eval_results(
    results: Iterable[tuple[str, str, float]], *, task: str, dataset_type: str, dataset_name: str, split: str
) -> list[EvalResult]:
    """Results on one data set, for the model index.

    Args:
        results (`Iterable[tuple[str, str, float]]`): type, name and value of each metric.
        task (`str`): as the Hub calls it; see [`Task.pipelines`].
        dataset_type (`str`): id of the data set on the Hub, or what kind it is.
        dataset_name (`str`): for people.
        split (`str`): which rows of it.
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
