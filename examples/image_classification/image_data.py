# SPDX-License-Identifier: Apache-2.0
"""Labeled images from the Hub, from folders or from files, as train, validation and test splits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, load_dataset
from torchvision.transforms import v2
from transformers import AutoImageProcessor, BaseImageProcessor, ViTImageProcessor

from hf_sidenet.data.limits import in_channels
from hf_sidenet.training import MainNetArguments


READERS = {"json": "json", "jsonl": "json", "parquet": "parquet"}
SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments:
    """Which images, and what is done to them."""

    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or its local folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one folder of images per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same; θ is chosen on these rows."})
    test_dir: str | None = field(default=None, metadata={"help": "The same; what is reported."})
    train_file: str | None = field(default=None, metadata={"help": "Instead of folders: parquet, json or jsonl file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same, to choose θ on."})
    test_file: str | None = field(default=None, metadata={"help": "The same, to report."})
    image_column: str = field(default="image", metadata={"help": "The column with the image."})
    label_column: str = field(default="label", metadata={"help": "The column with the class."})
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "What the data call the MainNet's outputs, in their order, where its own names differ."},
    )
    validation_split: float = field(
        default=0.1, metadata={"help": "Share of the training rows that become validation rows where there are none."}
    )
    image_size: int | None = field(default=None, metadata={"help": "In pixels; by default the image processor's."})
    augment: bool = field(default=True, metadata={"help": "Crop and flip training images at random."})
    split_seed: int | None = field(
        default=None, metadata={"help": "Seed with which --validation_split shuffles, by default --seed."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for validation and test rows."})

    def name(self) -> str:
        """What the data are called in reports: their Hub id, or their folder's name."""
        if self.dataset_name is not None and not Path(self.dataset_name).exists():
            return self.dataset_name
        return Path(self.dataset_name or self.train_dir or Path(self.train_file).parent).resolve().name


def load_images(args: DataArguments, seed: int) -> DatasetDict:
    """Rows in up to three splits; validation always exists.

    Raises:
        ValueError: there are no training rows, a file is of another kind, or a column is missing.
    """
    splits = {name: rows for name, rows in _read(args).items() if name in SPLITS}
    if "train" not in splits:
        raise ValueError(f"the data must have training rows, got the splits {sorted(splits) or 'none'}.")
    for name, rows in splits.items():
        missing = sorted({args.image_column, args.label_column} - set(rows.column_names))
        if missing:
            raise ValueError(f"{missing} must be columns of the {name} rows, which have {rows.column_names}.")
    if "validation" not in splits:
        seed = seed if args.split_seed is None else args.split_seed
        halves = splits["train"].train_test_split(args.validation_split, seed=seed)
        splits |= {"train": halves["train"], "validation": halves["test"]}
    for name, rows in splits.items():
        most = args.max_train_samples if name == "train" else args.max_eval_samples
        splits[name] = rows.select(range(min(most or len(rows), len(rows))))
    return DatasetDict(splits)


def load_processor(mainnet_args: MainNetArguments, image_size: int | None) -> BaseImageProcessor:
    """The MainNet's image processor, or, for a new MainNet, one that scales to `image_size` and to [-1, 1].

    Raises:
        ValueError: a new MainNet has no `image_size`.
    """
    if mainnet_args.model_name_or_path is not None:
        return AutoImageProcessor.from_pretrained(mainnet_args.model_name_or_path, **mainnet_args.loading())
    if image_size is None:
        raise ValueError("`image_size` must be given with `model_type`, got None.")
    size = {"height": image_size, "width": image_size}
    return ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def prepare(
    rows: Dataset, args: DataArguments, processor: BaseImageProcessor, augment: bool, num_channels: int = 3
) -> Dataset:
    """`pixel_values` and `labels`, made when a row is read, in the channels that the MainNet reads.

    Raises:
        ValueError: `image_size` is given for a timm model, whose processor has a size of its own.
    """
    if args.image_size is not None and hasattr(processor, "data_config"):
        raise ValueError(f"`image_size` must be None for timm models, which have their own, got {args.image_size}.")
    before = _augmentation(args.image_size or _size_of(processor)) if augment else None

    def read(batch: dict[str, list]) -> dict[str, Any]:
        images = [in_channels(image, num_channels) for image in batch[args.image_column]]
        if before is not None:
            images = [before(image) for image in images]
        size = {"size": {"height": args.image_size, "width": args.image_size}} if args.image_size else {}
        pixels = processor(images, return_tensors="pt", **size)["pixel_values"]
        return {"pixel_values": list(pixels), "labels": batch[args.label_column]}

    return rows.with_transform(read)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of rows of one size."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def _augmentation(size: int) -> Callable:
    """Small pictures (CIFAR) are shifted by up to an eighth, larger ones cropped, both flipped."""
    if size <= 64:
        crop = v2.RandomCrop(size, padding=size // 8)
        return v2.Compose([v2.Resize((size, size)), crop, v2.RandomHorizontalFlip()])
    return v2.Compose([v2.RandomResizedCrop((size, size), scale=(0.5, 1.0)), v2.RandomHorizontalFlip()])


def _size_of(processor: BaseImageProcessor) -> int:
    if hasattr(processor, "data_config"):
        return processor.data_config["input_size"][-1]  # timm
    size = getattr(processor, "crop_size", None) or getattr(processor, "size", None)
    if size is None:
        raise ValueError(f"`image_size` must be given: {type(processor).__name__} does not say its own.")
    size = dict(size)
    return size.get("height") or size["shortest_edge"]


def _read(args: DataArguments) -> DatasetDict:
    if args.dataset_name is not None:
        return load_dataset(args.dataset_name, args.dataset_config_name)
    folders = {name: str(Path(path) / "**") for name in SPLITS if (path := getattr(args, f"{name}_dir"))}
    if folders:
        return load_dataset("imagefolder", data_files=folders)
    files = {name: path for name in SPLITS if (path := getattr(args, f"{name}_file"))}
    kinds = {Path(path).suffix.lstrip(".") for path in files.values()}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        raise ValueError(
            f"give --dataset_name, --train_dir, or files of one kind out of {sorted(READERS)}, got {files or 'none'}."
        )
    return load_dataset(READERS[kinds.pop()], data_files=files)
