# SPDX-License-Identifier: Apache-2.0
"""Cache what every candidate SideNet would read, and the MainNet's logits, in one pass over a data set.

SideNets on a frozen MainNet then train on tensors alone. Features belong to specific rows, a MainNet and candidates:
they are stored in a folder named after their fingerprint, where later calls find them again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from ..data.formats import MapStyle
from ..io.fingerprint import DIGEST_SIZE, fingerprint_model
from ..measurement.inputs import model_inputs
from ..models.errors import ArgumentError
from ..models.forward import check_names
from ..models.gate import Run, has_sharded_parameters, run_mainnet
from ..models.mainnet import evaluating, gated, layout_of
from ..models.modalities import POOLINGS
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.sidenet import pool, pooling_mask
from .feature_shards import FORMAT, LABELS, ShardFolder, check_space, readable_size


if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.get_logger(__name__)

LOGITS = "mainnet_logits"


@dataclass(frozen=True)
class Candidate:
    """Candidate SideNet: its place and how it reads x_c.

    Args:
        exit_layer (`int`): number of blocks that run before it.
        pooling (`str`): `"mean"`, `"cls"`, `"gap"` or `"flatten"`; before the first block, what it reads.
        size (`str`, *optional*): which of several sizes it has.
    """

    exit_layer: int
    pooling: str
    size: str = ""

    @property
    def name(self) -> str:
        """Name such as `"2.mean"` or `"0.pixels.16x32"`."""
        return ".".join(part for part in (str(self.exit_layer), self.pooling, self.size) if part)


class Features:
    """Features cached by [`cache_features`], on disk. Tensors are read on demand, to the CPU.

    Args:
        shards (`ShardFolder`): a complete folder of shards.
        candidates (`Sequence[Candidate]`): the candidates in it.
    """

    def __init__(self, shards: ShardFolder, candidates: Sequence[Candidate]):
        self._shards = shards
        self.candidates = list(candidates)

    def __len__(self) -> int:
        return self._shards.num_rows

    @property
    def directory(self) -> Path:
        """Folder with the shards and `features.json`."""
        return self._shards.path

    @property
    def num_bytes(self) -> int:
        """Size of the shards on disk."""
        return self._shards.num_bytes()

    def features(self, candidate: Candidate) -> torch.Tensor:
        """Read the pooled x_c of one candidate; not cached in memory.

        Returns:
            `torch.Tensor` of shape `(num_rows, width)`: in the order of the data set and the model's dtype.

        Raises:
            ValueError: there is no such candidate, or a shard is damaged or missing.
        """
        if candidate not in self.candidates:
            raise ArgumentError("candidate", f"must be one of {[known.name for known in self.candidates]}", candidate)
        return self._shards.needed(_column(candidate))

    @cached_property
    def mainnet_logits(self) -> torch.Tensor:
        """Logits of the MainNet, of shape `(num_rows, num_labels)`."""
        return self._shards.needed(LOGITS)

    @cached_property
    def labels(self) -> torch.Tensor | None:
        """Class indices of shape `(num_rows,)`, -100 for unlabeled rows; `None` if no row has a label."""
        return self._shards.column(LABELS)


def default_candidates(
    model: SideNetPreTrainedModel, exit_layers: Sequence[int] | None = None, poolings: Sequence[str] | None = None
) -> list[Candidate]:
    """List every place after a block, and every pooling there, worth trying.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; its SideNets do not matter.
        exit_layers (`Sequence[int]`, *optional*, defaults to every place): number of blocks before a SideNet.
        poolings (`Sequence[str]`, *optional*):
            By default `"mean"` and `"cls"` for tokens, `"gap"` for feature maps. Images also allow `"flatten"`.

    Raises:
        ValueError: there is no such place, or a pooling does not fit the output of a block.
    """
    shapes, gates = model.block_shapes, layout_of(model).gates
    layers = range(1, len(shapes) + 1) if exit_layers is None else exit_layers
    candidates = []
    for layer in layers:
        # An invalid place is rejected below.
        shape = shapes[layer - 1] if 1 <= layer <= len(shapes) else shapes[0]
        tried = model.modality.candidate_poolings(shape) if poolings is None else poolings
        if poolings is None and 1 <= layer <= len(gates) and not gates[layer - 1].fits_mask:
            # A mean would take padding in.
            tried = ("cls",)
        candidates += [Candidate(layer, pooling) for pooling in tried]
    if not candidates:
        raise ArgumentError("exit_layers", "and `poolings` must name one place or more, got none")
    _widths(model, candidates)
    return candidates


@torch.no_grad()
def cache_features(
    model: SideNetPreTrainedModel,
    dataset: MapStyle,
    directory: str | os.PathLike,
    *,
    collate_fn: Callable[[list[Any]], Mapping[str, Any]],
    candidates: Sequence[Candidate],
    data_fingerprint: str,
    batch_size: int = 32,
    rows_per_shard: int = 512,
    num_workers: int = 0,
    accelerator: "Accelerator | None" = None,
    progress: bool = True,
    description: str = "Caching features",
) -> Features:
    """Run the MainNet once over a data set and cache what every candidate SideNet would read.

    Texts are sorted by length, longest first, to reduce padding. A killed call resumes where it stopped, with the same
    results; a finished call is not repeated. Concurrent calls for the same features, with the same `rows_per_shard`,
    duplicate work but do not interfere.

    Args:
        model ([`SideNetPreTrainedModel`]):
            Model whose MainNet runs in evaluation mode, on its device; its SideNets do not run.
        dataset (map-style data set):
            Rows as dicts of MainNet inputs, with or without `labels`.
        directory (`str` or `os.PathLike`):
            Parent of the folder of these features, on a disk that all processes share.
        collate_fn (`Callable`):
            Function that collates a list of rows, such as `DataCollatorWithPadding`. Floating-point inputs are cast to
            the model's dtype.
        candidates (`Sequence[Candidate]`): see [`default_candidates`]; without any, only the MainNet's logits.
        data_fingerprint (`str`):
            Fingerprint of everything that determines the rows: inputs, preprocessing and labels. See
            [`fingerprint_rows`].
        batch_size (`int`, *optional*, defaults to 32): rows per call of the MainNet.
        rows_per_shard (`int`, *optional*, defaults to 512): rows per file, which a killed call may have to repeat.
        num_workers (`int`, *optional*, defaults to 0): processes that prepare rows.
        accelerator (`Accelerator`, *optional*):
            Distribute the shards over all processes; each returns all features.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        description (`str`, *optional*): label of the progress bar.

    Returns:
        [`Features`]: features in the order of the data set.

    Raises:
        OSError: the disk has no room for the features.
        ValueError: an argument is invalid, the MainNet's parameters are sharded, or a batch lacks rows, lacks labels
            that others have, or has inputs that the MainNet does not take.
    """
    alone = accelerator is None
    rank, num_processes = (0, 1) if alone else (accelerator.process_index, accelerator.num_processes)
    wait = (lambda: None) if alone else accelerator.wait_for_everyone
    _check_arguments(model, dataset, batch_size=batch_size, rows_per_shard=rows_per_shard)
    shards, about = _shard_folder(model, len(dataset), directory, candidates, data_fingerprint)
    complete = shards.is_complete()
    with ExitStack() as held:
        if not complete:
            shards.path.mkdir(parents=True, exist_ok=True)
            order = by_length(dataset) if model.modality.has_tokens else list(range(len(dataset)))
            plan = [order[start : start + rows_per_shard] for start in range(0, len(order), rows_per_shard)]
            if rank == 0:
                held.enter_context(shards.at_work(len(plan)))
            todo = shards.unfinished(plan)
            _check_room(model, shards, sum(len(plan[number]) for number in todo), log=rank == 0)
        # No shard is written before this point, so that all processes agree on the remaining ones.
        wait()
        if complete:
            return Features(shards, candidates)
        own = todo[rank::num_processes]
        loader = DataLoader(
            # torch reads any map-style data set like its own.
            cast(Dataset, dataset),
            batch_sampler=[batch for number in own for batch in _batches(plan[number], batch_size)],
            collate_fn=collate_fn,
            num_workers=num_workers,
            # A separate generator, or later random numbers would depend on whether features were cached.
            generator=torch.Generator(),
        )
        bar = logging.tqdm(total=sum(len(plan[n]) for n in own), desc=description, disable=not progress or rank > 0)
        with evaluating(model.mainnet), bar:
            mainnet = gated(model.mainnet, layout_of(model))
            batches = iter(loader)
            for number in own:
                rows = plan[number]
                parts = []
                for batch in islice(batches, len(_batches(rows, batch_size))):
                    parts.append(_read_batch(model, mainnet, batch, candidates, shards.widths))
                    bar.update(len(parts[-1][LOGITS]))
                shards.write(number, rows, _joined(parts, len(rows)))
        wait()
        if rank == 0:
            shards.finish(len(plan), about)
        wait()
        return Features(shards, candidates)


def _column(candidate: Candidate) -> str:
    return f"features.{candidate.name}"


def _widths(model: SideNetPreTrainedModel, candidates: Sequence[Candidate]) -> dict[str, int]:
    """Return the width of every cached tensor, by name."""
    shapes, widths = model.block_shapes, {}
    if len(set(candidates)) < len(candidates):
        raise ArgumentError("candidates", f"must be distinct, got {[*candidates]}")
    for candidate in candidates:
        if not 1 <= candidate.exit_layer <= len(shapes):
            raise ArgumentError("exit_layer", f"must be between 1 and {len(shapes)}", candidate.exit_layer)
        if candidate.pooling not in POOLINGS or candidate.pooling == "auto":
            raise ArgumentError("pooling", f"must be one of {POOLINGS[1:]}", candidate.pooling)
        shape = shapes[candidate.exit_layer - 1]
        widths[_column(candidate)] = model.modality.pooled_size(shape, candidate.pooling)
    return widths | {LOGITS: model.task.num_outputs(model.config)}


def _check_arguments(model: SideNetPreTrainedModel, dataset: MapStyle, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ArgumentError(name, "must be ≥ 1", number)
    if len(dataset) == 0:
        raise ArgumentError("dataset", "must have at least one row, got none")
    if has_sharded_parameters(model.mainnet):
        raise ArgumentError(
            "model",
            "must have all parameters on every process, but they are sharded (FSDP or "
            "ZeRO-3), and processes with different rows would wait for each other: cache "
            "features before preparing the model",
        )


def _shard_folder(
    model: SideNetPreTrainedModel,
    num_rows: int,
    directory: str | os.PathLike,
    candidates: Sequence[Candidate],
    data_fingerprint: str,
) -> tuple[ShardFolder, dict[str, Any]]:
    """Return the folder of these features, and what they depend on."""
    widths = _widths(model, candidates)
    about = {
        "data_fingerprint": data_fingerprint,
        "mainnet_fingerprint": fingerprint_model(model.mainnet),
        "candidates": sorted(candidate.name for candidate in candidates),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    text = json.dumps([FORMAT, about, num_rows], sort_keys=True)
    fingerprint = hashlib.blake2b(text.encode(), digest_size=DIGEST_SIZE).hexdigest()
    return ShardFolder(Path(directory) / fingerprint, fingerprint, num_rows, widths), about


def by_length(dataset: MapStyle) -> list[int]:
    """Return row indices, longest text first, so that running out of memory happens at the start."""
    name = next((name for name in ("input_ids", "inputs_embeds") if name in dataset[0]), None)
    if name is None:
        return list(range(len(dataset)))
    with_format: Any = getattr(dataset, "with_format", None)
    if with_format is not None and name in (getattr(dataset, "column_names", None) or ()):
        # Without a format, which is faster to read than tensors.
        dataset = with_format(None, columns=[name])
    lengths = [len(dataset[i][name]) for i in range(len(dataset))]
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _batches(rows: list[int], batch_size: int) -> list[list[int]]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _check_room(model: SideNetPreTrainedModel, shards: ShardFolder, num_rows: int, log: bool) -> None:
    """Check that there is room for the remaining features, row indices and labels."""
    needed = num_rows * (sum(shards.widths.values()) * model.dtype.itemsize + 2 * torch.long.itemsize)
    if log:
        logger.info(
            "Features of %d of %d rows take %s in %s.", num_rows, shards.num_rows, readable_size(needed), shards.path
        )
    check_space(shards.path, needed)


def _read_batch(
    model: SideNetPreTrainedModel,
    mainnet: nn.Module,
    batch: Mapping[str, Any],
    candidates: Sequence[Candidate],
    widths: dict[str, int],
) -> dict[str, torch.Tensor]:
    """Return the features of every candidate for one batch, the MainNet's logits, and the labels."""
    inputs = {name: x for name, x in model_inputs(batch, model.device, model.dtype).items() if x is not None}
    check_names(model, inputs)
    if "use_cache" in model.mainnet_inputs:
        inputs["use_cache"] = False
    found: dict[str, torch.Tensor] = {}

    def visit(index: int, hidden: torch.Tensor, rows: torch.Tensor | None) -> None:
        for candidate in candidates:
            if candidate.exit_layer == index:
                mask = pooling_mask(inputs.get("attention_mask"), candidate.pooling)
                # Contiguous, because a view of one token would keep all tokens in memory.
                found[_column(candidate)] = pool(hidden, candidate.pooling, mask).to(model.dtype).contiguous()

    found[LOGITS] = run_mainnet(mainnet, Run(visit), **inputs, return_dict=True).logits
    for name, tensor in found.items():
        if tensor.shape[1] != widths[name]:
            raise ArgumentError(
                "dataset",
                "must have inputs of the SideNets' size, "
                f"{model.config.input_size}: {name} has {tensor.shape[1]} columns, not "
                f"{widths[name]}",
            )
    tensors = {name: tensor.cpu() for name, tensor in found.items()}
    if batch.get(LABELS) is not None:
        labels = torch.as_tensor(batch[LABELS]).cpu().view(-1)
        model.task.check_labels(labels, *found[LOGITS].shape)
        tensors[LABELS] = labels.long()
    return tensors


def _joined(parts: list[dict[str, torch.Tensor]], num_rows: int) -> dict[str, torch.Tensor]:
    if len({frozenset(part) for part in parts}) > 1:
        raise ArgumentError("dataset", "must have labels in every row or in none, but some batches have none")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if len(tensors[LOGITS]) != num_rows:
        raise ArgumentError("collate_fn", f"must keep every row, but {num_rows} rows became {len(tensors[LOGITS])}")
    return tensors
