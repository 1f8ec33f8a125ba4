# SPDX-License-Identifier: Apache-2.0
"""Finished runs of the paper's experiments, made up: what the tables are made from, without training."""

import json

import torch
from safetensors.torch import save_file

from hf_sidenet import ExitRecords


COSTS = {"num_threads": 1, "device": "cpu"}
GROUPS = {"mainnet": "without", "cut": "cut", "joint": "joint", "distilled": "distilled", "frozen": "frozen"}


def made_up_logits(num_rows, num_exits, num_labels, seed, labels):
    """Each exit is right more often than the one before, and surer where it is right."""
    chance = torch.Generator().manual_seed(seed)
    exits = []
    for i in range(num_exits):
        noise = torch.randn(num_rows, num_labels, generator=chance)
        exits.append(noise + (1.2 + 0.5 * i) * torch.nn.functional.one_hot(labels, num_labels))
    return torch.stack(exits, 1)


def save_run(root, name, seed, *, exit_layers=(), num_blocks=6, num_labels=2, rows=(400, 500), flops=1e6):
    """`root/NAME/seed-N` as train.py leaves it."""
    folder = root / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    costs = {"mainnet_params": 1000, "mainnet_flops": flops, "mainnet_milliseconds": 2.0, **COSTS}
    if exit_layers:
        shares = [*(layer / num_blocks for layer in exit_layers), 1.001]
        costs |= {"params": [round(1000 * share) for share in shares], "flops": [flops * share for share in shares]}
        costs["milliseconds"] = [2.0 * share for share in shares]
    for number, (split, count) in enumerate(zip(("validation", "test"), rows, strict=True)):
        # The same rows for every run.
        labels = torch.randint(num_labels, (count,), generator=torch.Generator().manual_seed(number))
        own = sum(map(ord, name)) + 1000 * seed + number
        logits = made_up_logits(count, len(exit_layers) + 1, num_labels, own, labels)
        if exit_layers:
            ExitRecords(logits, labels, logits[:, -1].clone()).save(folder / f"{split}_records.safetensors")
        else:
            save_file({"logits": logits[:, 0].clone(), "labels": labels}, folder / f"{split}_logits.safetensors")
    (folder / "config.json").write_text(json.dumps({"exit_layers": list(exit_layers)}))
    task = "text" if name.startswith("sst2") else "image"
    about = {
        "name": name,
        "task": task,
        "group": next(group for word, group in GROUPS.items() if word in name),
        "seed": seed,
        "arguments": ["--num_train_epochs", "3"],
        "commit": "0123456",
        "hardware": "CPU: none",
        "seconds": 1.0,
        "rows": {"train": 100, "validation": rows[0], "test": rows[1]},
        "fingerprints": {"train": "a", "validation": "b", "test": f"c-{task}"},
        "costs": costs,
    }
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def save_runs(root):
    """A few of each kind."""
    for seed in (0, 1):
        save_run(root, "sst2-mainnet", seed)
        save_run(root, "sst2-joint-2", seed, exit_layers=[2])
        save_run(root, "sst2-distilled-1-2-3", seed, exit_layers=[1, 2, 3])
        save_run(root, "sst2-cut-3", seed, flops=5e5)
        save_run(root, "resnet18-mainnet", seed, num_labels=10)
        save_run(root, "resnet18-joint-1", seed, exit_layers=[1], num_blocks=4, num_labels=10)
    save_run(root, "sst2-frozen", 0, exit_layers=[1, 2, 3])
    return root
