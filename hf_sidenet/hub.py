# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself on the Hub."""

import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .evaluation import CurvePoint, ExitReport, format_thresholds
from .measurement.files import replacing


TAGS = ("sidenet", "early-exit")
TASKS = {"pixel_values": "image-classification", "input_ids": "text-classification"}
CURRENCIES = {"flops": "FLOPs", "params": "parameters", "milliseconds": "milliseconds"}


def write_model_card(
    directory: str | os.PathLike,
    report: ExitReport,
    *,
    main_input_name: str,
    mainnet: str,
    dataset: str,
    split: str,
) -> None:
    """Write `README.md` with the card's metadata (`model-index`), or add them to the card that is there.

    Args:
        directory (`str` or `os.PathLike`): folder of the checkpoint.
        report ([`ExitReport`]): its results; they also become the card's last section.
        main_input_name (`str`): `"input_ids"` or `"pixel_values"`: says which task it is.
        mainnet (`str`): Hub id of the MainNet; a folder is left out, since others cannot follow it.
        dataset (`str`): name of the data.
        split (`str`): which split the numbers are from.
    """
    path = Path(directory) / "README.md"
    model_name = Path(directory).resolve().name
    task = TASKS[main_input_name]
    if path.exists():
        card = ModelCard.load(path)
    else:
        metadata = ModelCardData(library_name="transformers").to_yaml()
        what = f"{Path(mainnet).name} with SideNets (early exits), evaluated on {dataset}."
        card = ModelCard(f"---\n{metadata}\n---\n\n# {model_name}\n\n{what}\n")
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *TAGS]))
    card.data.pipeline_tag = task
    if not Path(mainnet).exists():
        card.data.base_model = mainnet
    card.data.model_name = model_name
    card.data.eval_results = [
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
    text = card.text.partition("## Early exits\n")[0].rstrip()
    card.text = f"{text}\n\n{section}"
    with replacing(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8")


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
