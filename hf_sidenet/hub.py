# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself on the Hub."""

import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData, upload_folder

from .evaluation import CurvePoint, ExitReport, format_thresholds
from .measurement.files import replacing


TAGS = ("sidenet", "early-exit")
TASKS = {"pixel_values": "image-classification", "input_ids": "text-classification"}
CURRENCIES = {"flops": "FLOPs", "params": "parameters", "milliseconds": "milliseconds"}
# What training leaves beside a checkpoint. Most of it is pickled: loading it would run whatever is in it.
NOT_SHARED = ("checkpoint-*", "epoch_*", "runs/*", "*.bin", "*.pt", "*.pth", "*.pkl", ".*")


def write_model_card(
    directory: str | os.PathLike,
    report: ExitReport,
    *,
    main_input_name: str,
    mainnet: str,
    dataset: str,
    split: str,
) -> None:
    """Write `README.md` with the card's metadata (`model-index`), or add them to the card that is there, which keeps
    its own text, tags and results on other data.

    Args:
        directory (`str` or `os.PathLike`): folder of the checkpoint.
        report ([`ExitReport`]): its results; they also become the card's last section.
        main_input_name (`str`): `"input_ids"` or `"pixel_values"`: says which task it is.
        mainnet (`str`): Hub id of the MainNet; a folder is left out, since others cannot follow it.
        dataset (`str`): name of the data.
        split (`str`): which split the numbers are from.

    Raises:
        ValueError: `main_input_name` is neither of the two.
    """
    if main_input_name not in TASKS:
        raise ValueError(f"`main_input_name` must be one of {sorted(TASKS)}, got {main_input_name!r}.")
    path = Path(directory) / "README.md"
    model_name = Path(directory).resolve().name
    task = TASKS[main_input_name]
    if path.exists():
        card = ModelCard.load(path)
    else:
        metadata = ModelCardData(library_name="transformers").to_yaml()
        what = f"{Path(mainnet).name or 'A MainNet'} with SideNets (early exits), evaluated on {dataset}."
        card = ModelCard(f"---\n{metadata}\n---\n\n# {model_name}\n\n{what}\n")
    card.data.library_name = card.data.library_name or "transformers"
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *TAGS]))
    card.data.pipeline_tag = task
    if not Path(mainnet).exists():
        card.data.base_model = mainnet
    card.data.model_name = model_name
    others = [
        result
        for result in card.data.eval_results or []
        if (result.dataset_type, result.dataset_split) != (dataset, split)
    ]
    card.data.eval_results = others + [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )
        for metric, name, value in _results(report)
    ]
    section = (
        "## Early exits\n\nLoad it with `trust_remote_code=True`; `output.exit_index` says who answered, and "
        f"`thresholds=` moves θ. Costs are fractions of the plain MainNet's.\n\n{report.text()}\n"
    )
    own = re.sub(r"^## Early exits\n.*?(?=^##? |\Z)", "", card.text, flags=re.MULTILINE | re.DOTALL).rstrip()
    card.text = f"{own}\n\n{section}"
    with replacing(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8")


def upload_checkpoint(
    directory: str | os.PathLike, repo_id: str, *, token: str | None = None, revision: str | None = None
) -> str:
    """Upload a folder that a training script wrote to the Hub, without the training's own state, which is pickled.

    Args:
        directory (`str` or `os.PathLike`): checkpoint, tokenizer or image processor, report and model card.
        repo_id (`str`): where to; it exists.
        token (`str`, *optional*): by default the one you logged in with.
        revision (`str`, *optional*): branch, by default the main one.

    Returns:
        `str`: the address of the commit.
    """
    commit = upload_folder(
        repo_id=repo_id, folder_path=directory, token=token, revision=revision, ignore_patterns=list(NOT_SHARED)
    )
    return str(commit)


def _results(report: ExitReport) -> list[tuple[str, str, float]]:
    points: list[tuple[str, CurvePoint]] = [("MainNet alone", report.fixed[0])]
    if report.chosen is not None:
        points.append((f"θ = {format_thresholds(report.chosen.thresholds)}", report.chosen))
    results = []
    for name, point in points:
        results.append(("accuracy", f"accuracy, {name}", point.accuracy))
        if point is report.chosen:
            costs = CURRENCIES.items()
            results += [
                (key, f"{text} per row, fraction of the MainNet's", getattr(point, key)) for key, text in costs
            ]
    return results
