# SPDX-License-Identifier: Apache-2.0
"""Convert rows of a data set to model inputs: token ids or pixels, with `labels` in the MainNet's order.

Rows without a text, a readable image or a label are rejected or left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PretrainedConfig

from ..models.errors import ArgumentError
from ..models.modalities import IMAGE, MODALITIES, Modality
from ..models.wrapped_network import TORCHVISION
from ..optional import require
from .classes import spelled
from .columns import Columns, unformatted
from .formats import FORMATS, Processor, format_of
from .labels import align_labels


if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 5
NO_IMAGE_PROCESSOR = (
    "If there never was one, give the size, mean and scale of training: BitImageProcessor("
    "size={'shortest_edge': 256}, crop_size={'height': 224, 'width': 224}, image_mean=[0.485, 0.456, 0.406], "
    "image_std=[0.229, 0.224, 0.225]).save_pretrained(...)."
)


def without_bad_rows(rows: "Dataset", split: str, columns: Columns, *, skip: bool) -> "tuple[Dataset, int]":
    """Return the valid rows, without a format, and how many were left out.

    Args:
        rows (`datasets.Dataset`): texts or images; every image is decoded once.
        split (`str`): name of the rows in errors.
        columns ([`Columns`]): columns of the inputs and labels; the label column may be missing.
        skip (`bool`): leave out bad rows instead of raising an error.

    Raises:
        ValueError: there are bad rows and `skip` is `False`, or all rows are bad.
    """
    rows = unformatted(rows)
    row_format, wrong = FORMATS[columns.modality], {}
    for name in columns.inputs:
        wrong |= dict(row_format.problems(rows, name))
    if columns.label in rows.column_names:
        labels = rows.with_format(None).select_columns(columns.label)[:][columns.label]
        wrong |= {i: f"has no label in {columns.label!r}" for i, label in enumerate(labels) if spelled(label) is None}
    if not wrong:
        return rows, 0
    if not skip or len(wrong) == len(rows):
        shown = [f"row {i + 1:,} {what}" for i, what in sorted(wrong.items())[:SHOWN]]
        raise ArgumentError(
            split,
            f"must have a {row_format.noun} and a label in every row, but {'; '.join(shown)}: {len(wrong):,} of "
            f"{len(rows):,} rows in total",
            advice="" if len(wrong) == len(rows) else "`skip_bad_rows` leaves them out.",
        )
    return rows.select([i for i in range(len(rows)) if i not in wrong]), len(wrong)


def load_processor(model_name_or_path: str, modality: Modality, **hub_kwargs: Any) -> Processor:
    """Load the preprocessor saved with a model: a tokenizer or an image processor.

    Args:
        model_name_or_path (`str`): Hub id or folder.
        modality ([`Modality`]): modality of the model; `model.modality` of a model with SideNets.
        hub_kwargs (*optional*): `revision`, `token`, `trust_remote_code` and other arguments of `from_pretrained`.

    Raises:
        ValueError: there is none.
    """
    kind = modality.processor_name

    def missing(advice: str = "") -> ArgumentError:
        return ArgumentError(
            "model_name_or_path",
            f"must have a {kind}, got {model_name_or_path!r} without {modality.processor_file}; save it next to the "
            f"model: {kind.replace(' ', '_')}.save_pretrained(...)",
            advice=f"{advice} {NO_IMAGE_PROCESSOR}".strip() if modality is IMAGE else advice,
        )

    try:
        processor = modality.processor_class.from_pretrained(model_name_or_path, **hub_kwargs)
    except (OSError, ValueError) as error:
        raise missing(f"({' '.join(str(error).split())[:200]})") from error
    # If the files are missing, transformers makes a tokenizer with only special tokens.
    if hasattr(processor, "all_special_ids") and len(processor) <= len(set(processor.all_special_ids)):
        raise missing()
    return processor


def own_processor(config: PretrainedConfig) -> Processor | None:
    """Return the image processing of a classifier of timm or torchvision, which its weights say; `None` for others.

    For torchvision, that of the architecture's default weights: others may have been trained otherwise.

    Args:
        config (`PretrainedConfig`): config of the wrapped classifier.
    """
    about: Any = config
    if getattr(config, "pretrained_cfg", None) is not None:
        # Only here: it imports timm.
        from transformers import TimmWrapperImageProcessor

        return TimmWrapperImageProcessor(about.pretrained_cfg, architecture=about.architecture)
    name = getattr(config, "factory", None) or ""
    if not name.startswith(TORCHVISION):
        return None
    # Only here: it imports PIL.
    from transformers import BitImageProcessor
    from transformers.image_utils import PILImageResampling

    weights = require("torchvision.models", "vision").get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT
    preset = weights.transforms()
    (crop,), (shorter,) = preset.crop_size, preset.resize_size
    return BitImageProcessor(
        do_resize=True,
        size={"shortest_edge": shorter},
        resample=PILImageResampling[preset.interpolation.name],
        do_center_crop=True,
        crop_size={"height": crop, "width": crop},
        image_mean=preset.mean,
        image_std=preset.std,
    )


def processor_in(directory: str, modality: Modality) -> Processor | None:
    """Call [`load_processor`] without running the folder's code; return `None` if there is no processor."""
    try:
        return load_processor(directory, modality, trust_remote_code=False)
    except ValueError:
        return None


def prepare(
    rows: "Dataset",
    columns: Columns,
    processor: Processor,
    config: PretrainedConfig,
    *,
    max_length: int | None = None,
) -> "Dataset":
    """Convert rows to model inputs, with `labels` if the rows have them as indices.

    Args:
        rows (`datasets.Dataset`): texts or images.
        columns ([`Columns`]): their columns.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): processor from [`load_processor`].
        config (`PretrainedConfig`):
            Config of the MainNet, or of a checkpoint with SideNets, for the number of positions or channels.
        max_length (`int`, *optional*): tokens at which texts are truncated; by default the tokenizer's limit, at most
            512. `None` for images.

    Returns:
        `datasets.Dataset`: rows with lists of `input_ids (length,)` and other outputs of the tokenizer, not padded; or
        with `pixel_values (channels, height, width)`, computed when a row is read.

    Raises:
        ValueError: `max_length` is less than 1, or given for images.
    """
    if max_length is not None and max_length < 1:
        raise ArgumentError("max_length", f"must be at least 1, and None for images, got {max_length}")
    return format_of(MODALITIES[columns.modality]).prepare(rows, columns, processor, config, max_length)


def prepare_splits(
    splits: "dict[str, Dataset]",
    columns: Columns,
    config: PretrainedConfig,
    processor: Processor,
    *,
    max_length: int | None = None,
    labels: Sequence[str] | None = None,
    new_head: bool = False,
) -> "tuple[dict[str, Dataset], list[str]]":
    """[`prepare`] every split, with the classes in one order: see [`align_labels`].

    Args:
        splits (`dict[str, Dataset]`): splits from [`load_splits`].
        columns ([`Columns`]): columns from [`load_splits`].
        config (`PretrainedConfig`): config of the MainNet, or of a checkpoint with SideNets.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): processor from [`load_processor`].
        max_length (`int`, *optional*): see [`prepare`].
        labels (`Sequence[str]`, *optional*): see [`align_labels`].
        new_head (`bool`, *optional*, defaults to `False`): see [`align_labels`].

    Returns:
        `(inputs, names)`: the splits, and the names of the classes in the order of their indices.

    Raises:
        ImportError: datasets is not installed.
        ValueError: see [`align_labels`] and [`prepare`], or a row has no text, no readable picture or no label.
    """
    splits = {key: without_bad_rows(rows, key, columns, skip=False)[0] for key, rows in splits.items()}
    splits, names = align_labels(splits, columns.label, config, labels=labels, new_head=new_head)
    inputs = {key: prepare(rows, columns, processor, config, max_length=max_length) for key, rows in splits.items()}
    return inputs, names


def collator(
    processor: Processor | None, modality: Modality
) -> Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]:
    """Return a function that collates prepared rows, with or without `labels`, by padding texts or stacking images.

    Raises:
        ValueError: the tokenizer cannot pad.
    """
    return format_of(modality).collator(processor)
