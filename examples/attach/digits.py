# SPDX-License-Identifier: Apache-2.0
"""Make a classifier for the tutorial: handwritten digits as folders of pictures, and a ResNet trained only on its
training rows, so that it has never seen the validation rows.

usage: digits.py OUTPUT_DIR
"""

import sys
from pathlib import Path

import numpy as np
from datasets import load_dataset
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    set_seed,
)

from hf_sidenet.data import collator, find_columns, prepare_splits
from hf_sidenet.models.tasks import modality_of


SIZE = 32
ENDS = {"train": (0, 900), "validation": (900, 1350), "test": (1350, 1797)}


def write_pictures(folder: Path) -> None:
    """`folder/SPLIT/CLASS/NUMBER.png`."""
    digits = load_digits()
    gray = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4))).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(gray))
    for split, (start, end) in ENDS.items():
        for number in order[start:end]:
            place = folder / split / str(digits.target[number])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(gray[number]).save(place / f"{number}.png")


def train_mainnet(folder: Path) -> None:
    """Train for ten epochs on the training rows only."""
    splits = {name: load_dataset("imagefolder", data_dir=str(folder / name), split="train") for name in ENDS}
    names = splits["train"].features["label"].names
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    rows, _ = prepare_splits(splits, find_columns(splits["train"].features), config, processor, new_head=True)
    args = TrainingArguments(
        folder / "training",
        num_train_epochs=10,
        learning_rate=1e-3,
        per_device_train_batch_size=64,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        ResNetForImageClassification(config),
        args,
        train_dataset=rows["train"],
        data_collator=collator(processor, modality_of(config)),
    )
    trainer.train()
    trainer.model.save_pretrained(folder / "mainnet")
    processor.save_pretrained(folder / "mainnet")


def main(folder: Path) -> None:
    set_seed(0)
    write_pictures(folder)
    train_mainnet(folder)
    for split, (start, end) in ENDS.items():
        print(f"{split}: {end - start} pictures")
    print(f"classifier: {folder / 'mainnet'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
