# SPDX-License-Identifier: Apache-2.0
"""The steps of both demos after training: collect, choose θ on validation, report on test, save, reload elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from hf_sidenet import collect
from hf_sidenet.evaluation import ExitReport
from hf_sidenet.measurement import measure_costs


HERE = Path(__file__).parent


def paper_schedule() -> dict:
    """Return the training arguments of the paper's §4: Adam, lr ÷ 3 after 5 epochs without a lower validation loss."""
    return {
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"factor": 1 / 3, "patience": 4, "mode": "min"},
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "report_to": "none",
        "logging_strategy": "epoch",
    }


def report(
    model, validation_set, test_set, collator, *, batch_size: int, max_drop: float, title: str, output_dir: Path
) -> list[float]:
    """Measure, print and plot the sweep of θ on the test rows; return the θ chosen on the validation rows."""

    def loader(rows):
        return DataLoader(rows, batch_size=batch_size, collate_fn=collator)

    made = ExitReport.from_records(
        collect(model, loader(test_set)),
        measure_costs(model, loader(test_set), progress=True),
        collect(model, loader(validation_set)),
        max_accuracy_drop=max_drop,
    )
    print(f"\n{made.text()}\n")
    made.save(output_dir, title)
    return made.chosen.thresholds


def save_and_reload(model, processor, test_set, collator, thresholds: list[float], output_dir: Path) -> None:
    """Save with θ, reload in a process that cannot import hf_sidenet, and compare the answers."""
    model.config.thresholds = thresholds
    checkpoint = output_dir / "checkpoint"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    batch = dict(collator([test_set[i] for i in range(min(64, len(test_set)))]))
    batch.pop("labels")
    save_file({k: v.contiguous() for k, v in batch.items()}, output_dir / "rows.safetensors")
    with torch.no_grad():
        output = model.cpu().eval()(**batch)
    script = HERE / "reload_without_package.py"
    command = [sys.executable, str(script), str(checkpoint), str(output_dir / "rows.safetensors")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answers = json.loads(done.stdout.splitlines()[-1])
    expected = {"labels": output.logits.argmax(-1).tolist(), "exit_index": output.exit_index.tolist()}
    if answers != expected:
        raise SystemExit("The reloaded checkpoint does not give the same answers.")
    rows = len(expected["labels"])
    print(f"Reloaded with trust_remote_code=True where hf_sidenet cannot be imported: the same {rows} answers.")
