# SPDX-License-Identifier: Apache-2.0
"""Measure how long attaching takes, in epochs of fine-tuning: both timed in one run, on the same rows and machine.

usage: time_attach.py MAINNET DATA_DIR [--max_length 128] [--batch_size 32] [further flags of hf-sidenet attach]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from hf_sidenet.attaching.steps import load_mainnet
from hf_sidenet.data import load_splits
from hf_sidenet.data.rows import prepare_rows


STEPS = ("features", "heads", "placement", "calibration")


def seconds_of_an_epoch(mainnet: str, files: dict[str, Path], max_length: int | None, batch_size: int) -> float:
    """Time one epoch of plain fine-tuning with the Trainer's defaults."""
    splits, columns = load_splits(files={"train": files["train"]})
    given, processor = load_mainnet(mainnet, None, {})
    rows = prepare_rows(
        splits, given.mainnet.config, processor, modality=given.modality, columns=columns, max_length=max_length
    )["train"]
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
        )
        given.set_freeze_mainnet("none")
        trainer = Trainer(given.mainnet, args, train_dataset=rows.dataset, data_collator=rows.collate_fn)
        return trainer.train().metrics["train_runtime"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mainnet")
    parser.add_argument("data_dir", type=Path, help="folder written by split_data.py")
    parser.add_argument("--max_length", type=int)
    parser.add_argument("--batch_size", type=int, default=32)
    args, further = parser.parse_known_args()
    files = {path.stem: path for path in sorted(args.data_dir.iterdir())}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hf_sidenet.cli", "attach", args.mainnet, "--json", "--cache-dir", folder]
        command += ["--output-dir", f"{folder}/checkpoint", "--batch-size", str(args.batch_size), *further]
        for name, path in files.items():
            command += [f"--{name}-file", str(path)]
        if args.max_length is not None:
            command += ["--max-length", str(args.max_length)]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        whole = time.perf_counter() - start
    report = json.loads(done.stdout)
    seconds = report.get("seconds") or report["report"]["seconds"]
    epoch = seconds_of_an_epoch(args.mainnet, files, args.max_length, args.batch_size)
    core = sum(seconds[step] for step in STEPS)
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    print(f"one epoch of fine-tuning: {epoch:.1f} s ({torch.get_num_threads()} threads)")
    print(f"features + heads + placement + calibration: {core:.1f} s = {core / epoch:.2f} epochs")
    print(f"the whole command, including start and test rows: {whole:.1f} s = {whole / epoch:.2f} epochs")


if __name__ == "__main__":
    main()
