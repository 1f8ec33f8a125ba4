# SPDX-License-Identifier: Apache-2.0
"""Train a small ResNet on handwritten digits, add SideNets after its first stages, and answer easy rows early.

The digits ship with scikit-learn (1,797 images of 8×8); `--dataset cifar10 --data_dir DIR` uses CIFAR-10 instead.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from sklearn.datasets import load_digits
from steps import paper_schedule, report, save_and_reload
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    set_seed,
)

from hf_sidenet import ResNetWithSideNetForImageClassification, compute_exit_metrics


SIZE = 32
RESNETS = {
    "digits": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]},
    "cifar10": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},  # ResNet-18
}
EPOCHS = {"digits": (15, 25), "cifar10": (6, 8)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=list(RESNETS))
    parser.add_argument(
        "--data_dir", default=os.environ.get("SIDENET_DATA"), help="folder that contains cifar10/*.parquet"
    )
    parser.add_argument("--exit_layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pooling", default="gap", choices=["gap", "flatten"], help="paper: flatten")
    parser.add_argument("--epochs", type=int, help="epochs of the MainNet")
    parser.add_argument("--sidenet_epochs", type=int, help="epochs of the SideNets on the frozen MainNet")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--sidenet_learning_rate", type=float, default=3e-3)
    parser.add_argument("--max_drop", type=float, default=0.005, help="accuracy that θ may cost on validation rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    args = parser.parse_args()
    if args.dataset == "cifar10" and not args.data_dir:
        parser.error("--data_dir is needed for cifar10 (or the environment variable SIDENET_DATA)")
    default_epochs = EPOCHS[args.dataset]
    args.epochs = default_epochs[0] if args.epochs is None else args.epochs
    args.sidenet_epochs = default_epochs[1] if args.sidenet_epochs is None else args.sidenet_epochs
    return args


def load_images(args: argparse.Namespace):
    """Return (images, labels) of train, validation and test, and the label names."""
    if args.dataset == "cifar10":
        files = {name: str(Path(args.data_dir) / "cifar10" / f"{name}.parquet") for name in ("train", "test")}
        rows = load_dataset("parquet", data_files=files)
        train = rows["train"].shuffle(seed=args.seed)
        splits = train.select(range(45_000)), train.select(range(45_000, 50_000)), rows["test"]
        return [(split["image"], split["label"]) for split in splits], train.features["label"].names
    digits = load_digits()
    gray = np.kron(digits.images * (255 / 16), np.ones((1, 4, 4))).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=-1)
    order = np.random.default_rng(args.seed).permutation(len(images))
    splits = order[:997], order[997:1397], order[1397:]
    return [(images[split], digits.target[split]) for split in splits], [str(digit) for digit in range(10)]


class Images(torch.utils.data.Dataset):
    """Preprocessed images in memory; `augment` flips and shifts by up to 4 pixels, as usual for CIFAR-10."""

    def __init__(self, images, labels, processor, augment: bool = False):
        chunks = range(0, len(images), 500)
        arrays = [[np.asarray(image) for image in images[i : i + 500]] for i in chunks]
        self.pixel_values = torch.cat([processor(chunk, return_tensors="pt").pixel_values for chunk in arrays])
        self.labels = torch.as_tensor(labels)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels = self.pixel_values[index]
        if self.augment:
            pixels = pixels.flip(-1) if torch.rand(()) < 0.5 else pixels
            top, left = torch.randint(0, 9, (2,)).tolist()
            pixels = torch.nn.functional.pad(pixels, (4, 4, 4, 4))[:, top : top + SIZE, left : left + SIZE]
        return {"pixel_values": pixels, "labels": self.labels[index]}


def main() -> None:
    args = arguments()
    set_seed(args.seed)
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    splits, names = load_images(args)
    train = Images(*splits[0], processor, augment=args.dataset == "cifar10")
    validation, test = (Images(*split, processor) for split in splits[1:])

    def fit(model, epochs, learning_rate, name, metrics=None, **schedule):
        training_args = TrainingArguments(
            output_dir=args.output_dir / name,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=256,
            seed=args.seed,
            **{**paper_schedule(), **schedule},
        )
        trainer = Trainer(model, training_args, train_dataset=train, eval_dataset=validation, compute_metrics=metrics)
        trainer.train()
        return trainer.model

    config = ResNetConfig(
        **RESNETS[args.dataset],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    linear = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}}
    mainnet = fit(ResNetForImageClassification(config), args.epochs, args.learning_rate, "mainnet", **linear)

    model = ResNetWithSideNetForImageClassification.from_mainnet(
        mainnet, exit_layers=args.exit_layers, pooling=args.pooling, input_size=[3, SIZE, SIZE]
    )
    model = fit(model, args.sidenet_epochs, args.sidenet_learning_rate, "sidenets", compute_exit_metrics(model))

    thresholds = report(
        model,
        validation,
        test,
        torch.utils.data.default_collate,
        batch_size=64,
        max_drop=args.max_drop,
        title=f"{args.dataset}, {args.pooling} SideNets after {args.exit_layers} of 4 stages, seed {args.seed}",
        output_dir=args.output_dir,
    )
    save_and_reload(model, processor, test, torch.utils.data.default_collate, thresholds, args.output_dir)
    print(
        f"\nCheckpoint: {args.output_dir}/checkpoint   table: {args.output_dir}/report.md   figure: "
        f'{args.output_dir}/accuracy_cost.png\nNext, try it on your own picture:\n  python -c "from transformers '
        f"import pipeline; print(pipeline('image-classification', '{args.output_dir}/checkpoint', "
        "trust_remote_code=True)('picture.png'))\""
    )


if __name__ == "__main__":
    main()
