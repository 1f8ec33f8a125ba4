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
    """The images to use, and how they are prepared."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or its local folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder with one subfolder of images per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same for validation, where θ is chosen."})
    test_dir: str | None = field(default=None, metadata={"help": "The same for test, where results are reported."})
    train_file: str | None = field(default=None, metadata={"help": "Instead of folders: Parquet, JSON or JSONL file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same for validation."})
    test_file: str | None = field(default=None, metadata={"help": "The same for test."})
    image_column: str = field(default="image", metadata={"help": "The column with the image."})
    label_column: str = field(default="label", metadata={"help": "The column with the class."})
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "The data's names for the MainNet's outputs, in order, if its own names differ."},
    )
    validation_split: float = field(
        default=0.1, metadata={"help": "Share of the training rows used for validation if there are none."}
    )
    image_size: int | None = field(default=None, metadata={"help": "In pixels; by default the image processor's."})
    augment: bool = field(default=True, metadata={"help": "Randomly crop and flip training images."})
    split_seed: int | None = field(default=None, metadata={"help": "Seed for --validation_split, by default --seed."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for validation and test rows."})

    def name(self) -> str:
        """Return the name of the data in reports: the Hub id, or the folder's name."""
        if self.dataset_name is not None and not Path(self.dataset_name).exists():
            return self.dataset_name
        return Path(self.dataset_name or self.train_dir or Path(self.train_file).parent).resolve().name


def load_images(args: DataArguments, seed: int) -> DatasetDict:
    """Load rows in up to three splits; validation always exists.

    Raises:
        ValueError: there are no training rows, a file type is not supported, or a column is missing.
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
    """Load the MainNet's image processor or, for a new MainNet, one that scales to `image_size` and to [-1, 1].

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
    """Compute `pixel_values` and `labels` when a row is read, in the channels that the MainNet reads.

    Raises:
        ValueError: `image_size` is given for a timm model, whose processor has its own size.
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
    """Batch rows of the same size."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def _augmentation(size: int) -> Callable:
    """Shift small pictures (CIFAR) by up to an eighth, crop larger ones, and flip both."""
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
