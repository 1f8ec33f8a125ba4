# SPDX-License-Identifier: Apache-2.0
"""What both demos do after training: collect, choose θ on validation, report on test, save, reload elsewhere."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from itertools import islice
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from hf_sidenet import ExitRecords, collect
from hf_sidenet.evaluation import fixed_points, plot_accuracy_cost, sweep, table, write_csv
from hf_sidenet.measurement import measure_costs


HERE = Path(__file__).parent
THETAS = [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0]


def paper_schedule() -> dict:
    """Training arguments of the paper's §4: Adam, lr ÷ 3 after 5 epochs in which the validation loss does not fall."""
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


def choose_theta(validation: ExitRecords, costs, max_drop: float) -> float:
    """The cheapest θ whose validation accuracy is at most `max_drop` under the MainNet's. It guarantees nothing."""
    mainnet = fixed_points(validation, costs)[0].accuracy
    good = [point for point in sweep(validation, costs, THETAS) if point.accuracy >= mainnet - max_drop]
    return min(good, key=lambda point: point.flops).thresholds[0]


def report(
    model, validation_set, test_set, collator, *, batch_size: int, max_drop: float, title: str, output_dir: Path
) -> float:
    """Measure, print and draw the sweep of θ on the test rows; returns the θ chosen on the validation rows."""
    output_dir.mkdir(parents=True, exist_ok=True)

    def loader(rows):
        return DataLoader(rows, batch_size=batch_size, collate_fn=collator)

    validation, test = collect(model, loader(validation_set)), collect(model, loader(test_set))
    test.save(output_dir / "test_records.safetensors")
    batches = [{k: v for k, v in batch.items() if k != "labels"} for batch in islice(loader(test_set), 4)]
    costs = measure_costs(model, batches)
    theta = choose_theta(validation, costs, max_drop)
    points, fixed = sweep(test, costs, THETAS), fixed_points(test, costs)
    write_csv(points, output_dir / "sweep.csv")
    plot_accuracy_cost(points, fixed, output_dir / "accuracy_cost.png", title)
    chosen = next(point for point in points if point.thresholds[0] == theta)
    summary = (
        f"θ = {theta:g}, chosen on {len(validation):,} validation rows for at most {max_drop:.1%} less accuracy: on "
        f"{len(test):,} test rows {100 * chosen.accuracy:.2f} % instead of {100 * fixed[0].accuracy:.2f} %, with "
        f"{chosen.flops:.2f} of the MainNet's FLOPs, {chosen.params:.2f} of its parameters and "
        f"{chosen.milliseconds:.2f} of its milliseconds per row."
    )
    absolute = (
        f"MainNet alone: {costs.mainnet_params:,} parameters, {costs.mainnet_flops / 1e6:.1f} MFLOP and "
        f"{costs.mainnet_milliseconds:.3f} ms per row (batch {batch_size}, {costs.num_threads} threads, "
        f"{costs.device})."
    )
    text = "\n\n".join(
        [summary, absolute, "Fixed answers:", table(fixed), "Routed, one θ for all SideNets:", table(points)]
    )
    print("\n" + text + "\n")
    (output_dir / "report.md").write_text(f"# {title}\n\n{provenance()}\n\n{text}\n\n![accuracy](accuracy_cost.png)\n")
    return theta


def save_and_reload(model, processor, test_set, collator, theta: float, output_dir: Path) -> None:
    """Save with θ, reload in a process that cannot import hf_sidenet, and compare the answers."""
    model.config.thresholds = [theta] * len(model.config.exit_layers)
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


def provenance() -> str:
    """Command, commit, versions and hardware, for the top of a result."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, cwd=HERE).stdout
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "not used (not verified on CUDA)"
    return "\n".join(
        [
            f"- command: `python {shlex.join(sys.argv)}`",
            f"- date {date.today()}, commit {commit.strip() or 'none'}",
            f"- Python {platform.python_version()}, torch {torch.__version__}, "
            f"transformers {transformers.__version__}",
            f"- CPU {cpu}, {torch.get_num_threads()} threads; GPU {device}",
        ]
    )
