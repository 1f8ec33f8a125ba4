# SPDX-License-Identifier: Apache-2.0
"""Attach SideNets to a network of one's own, save them together, and load the checkpoint without this package.

```bash
python examples/own_network/run.py --output_dir outputs/own_network
```

The digits ship with scikit-learn: no network, about a minute on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from net import SmallNet
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from transformers import BitImageProcessor, set_seed

from hf_sidenet import attach
from hf_sidenet.training.heads import HeadTraining


CODE = Path(__file__).with_name("net.py")
SIZE = 32
HALF = [0.5, 0.5, 0.5]
# In a process of its own, in an empty folder, where this package cannot be imported by chance.
LOAD = """
import sys
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
found = classify(sys.argv[2], top_k=1)[0]
print(f"loaded elsewhere, {'with' if 'hf_sidenet' in sys.modules else 'without'} hf_sidenet: {found['label']}")
"""


def digits() -> dict[str, Dataset]:
    """Return the digits as pictures, in three parts that share no row."""
    found = load_digits()
    gray = np.kron(found.images * (255 / 16), np.ones((1, SIZE // 8, SIZE // 8))).astype(np.uint8)
    pictures = [Image.fromarray(picture).convert("RGB") for picture in gray]
    order = np.random.default_rng(0).permutation(len(pictures))
    parts = {"train": order[:900], "validation": order[900:1350], "test": order[1350:]}
    return {
        split: Dataset.from_dict({"image": [pictures[i] for i in part], "label": [str(found.target[i]) for i in part]})
        for split, part in parts.items()
    }


def train(rows: Dataset, processor: BitImageProcessor, epochs: int) -> SmallNet:
    """Train the network in a plain loop, as anyone would."""
    network = SmallNet()
    pixels = processor(rows["image"][:], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([int(label) for label in rows["label"]])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for some in torch.randperm(len(labels)).split(64):
            loss = nn.functional.cross_entropy(network(pixels[some]), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="outputs/own_network", metavar="DIRECTORY")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the network (default: %(default)s)")
    parser.add_argument("--head_epochs", type=int, default=15, help="epochs of the SideNets (default: %(default)s)")
    args = parser.parse_args()
    set_seed(0)
    rows = digits()
    processor = BitImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=HALF, image_std=HALF)
    network = train(rows["train"], processor, args.epochs)
    result = attach(
        network,
        rows["train"],
        rows["validation"],
        rows["test"],
        processor=processor,
        example_inputs=torch.zeros(2, 3, SIZE, SIZE),
        id2label={i: str(i) for i in range(10)},
        # What builds the network where the checkpoint is loaded, and the word that this file may run there.
        code=f"{CODE}:build",
        trust_remote_code=True,
        target="accuracy_drop<=0.02",
        heads=HeadTraining(max_epochs=args.head_epochs),
        exit_layers=[1, 2, 3],
        output_dir=args.output_dir,
        overwrite=True,
    )
    print(f"verdict: {result.verdict}")
    if result.model is None:
        sys.exit("Nothing was written.")
    routed = result.report["evaluation"]["routed"]
    print(f"SideNets after {result.model.config.exit_layers} of 4 stages, for accuracy_drop<=0.02")
    print(
        f"on {len(rows['test'])} test digits: {routed['flops']['value']:.3f} of the FLOPs, "
        f"accuracy drop {routed['accuracy_drop']['value']:.4f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows["test"]["image"][0].save(f"{folder}/digit.png")
        command = [sys.executable, "-c", LOAD, str(Path(args.output_dir).resolve()), f"{folder}/digit.png"]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=True)


if __name__ == "__main__":
    main()
