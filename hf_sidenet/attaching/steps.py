# SPDX-License-Identifier: Apache-2.0
"""Steps of [`attach`]: loading, features, heads, placement, model and records."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from ..calibration import Budget, Chaining, CostModel, Placement, Split, Target, chained_records, cost_model, place
from ..calibration.label_checks import Answered
from ..data import load_processor
from ..data.formats import Processor
from ..data.preparing import own_processor
from ..data.rows import Rows, SomeRows
from ..inference.classes import sidenet_class
from ..inference.collect import first_batches
from ..inference.stages import Stages
from ..io.fingerprint import fingerprint_model
from ..measurement import ExitRecords, accuracy
from ..measurement.inputs import model_inputs
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.exit_rule import stack_exits
from ..models.mainnet import evaluating
from ..models.modalities import EMBEDDINGS
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.raw_models import as_mainnet, network_arguments
from ..models.sidenet import SideNet
from ..models.tasks import NO_LABEL, Task, label_names
from ..training.features import Candidate, Features, cache_features, default_candidates
from ..training.heads import HeadData, HeadTraining, sidenet_logits, train_heads
from ..training.input_exits import (
    NgramTraining,
    TextRows,
    has_token_embeddings,
    input_logits,
    text_sizes,
    train_text_exits,
)
from ..training.pixel_exits import (
    PixelTraining,
    answers_mirrored_alike,
    pixel_sizes,
    read_pixels,
    train_pixel_exit,
)
from .weights import is_named, load_named


if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.get_logger(__name__)

SHOWN_PLACEMENTS = 10


@dataclass(frozen=True)
class Trained:
    """Trained candidates.

    Args:
        sidenets (`Mapping[Candidate, nn.Module]`): SideNets in evaluation mode.
        input_sizes (`Mapping[Candidate, dict[str, Any]]`): `input_sidenet` of those before the first block.
    """

    sidenets: Mapping[Candidate, nn.Module]
    input_sizes: Mapping[Candidate, dict[str, Any]]


def all_candidates(
    model: SideNetPreTrainedModel,
    exit_layers: Sequence[int] | None = None,
    poolings: Sequence[str] | None = None,
    *,
    row: Mapping[str, Any] | None = None,
) -> list[Candidate]:
    """List every candidate, before the first block and after the others.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; its SideNets do not matter.
        exit_layers (`Sequence[int]`, *optional*, defaults to every place): number of blocks before a SideNet.
        poolings (`Sequence[str]`, *optional*):
            After a block, see [`default_candidates`]. Before the first, names such as `"ngrams"` select what to read,
            by default everything.
        row (`Mapping[str, Any]`, *optional*):
            A row of the data set. Without the main input (texts as `inputs_embeds`), nothing is tried before the first
            block by default.

    Raises:
        ValueError: see [`default_candidates`].
    """
    readings = model.modality.readings
    layers = None if exit_layers is None else [layer for layer in exit_layers if layer != 0]
    chosen = [name for name in poolings or () if name in readings]
    after = [name for name in poolings or () if name not in readings] or None
    before = []
    has_input = row is None or model.modality.main_inputs[0] in row
    if has_input if exit_layers is None else 0 in exit_layers:
        before = [Candidate(0, reading) for reading in chosen or readings]
    return before + (default_candidates(model, layers, after) if layers is None or layers else [])


class Clock:
    """Seconds that each step took."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


@dataclass(frozen=True)
class AttachRun:
    """Rows and settings of one call.

    Args:
        rows (`Mapping[str, Rows]`): train, validation and optionally test rows.
        split ([`Split`]): split of the validation rows.
        targets (`Sequence[Target]`): the targets.
        cache_dir (`Path`): folder for features.
        batch_size (`int`): rows per call.
        accelerator (`Accelerator`, *optional*): distribute feature computation over its processes.
        progress (`bool`): show progress bars.
        task ([`Task`]): the task.
        pixels ([`PixelTraining`], *optional*): training settings of nets on pixels.
    """

    rows: Mapping[str, Rows]
    split: Split
    targets: Sequence[Target]
    cache_dir: Path
    batch_size: int
    accelerator: "Accelerator | None"
    progress: bool
    task: Task
    pixels: PixelTraining = field(default_factory=PixelTraining)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the folder."""
        return self.accelerator is None or self.accelerator.is_main_process

    def some(self, name: str, which: torch.Tensor | None = None) -> SomeRows:
        """Return rows of a split, by default all."""
        return SomeRows(self.rows[name], name, which)

    def features(self, model: SideNetPreTrainedModel, name: str, candidates: Sequence[Candidate]) -> Features:
        """Compute or load cached features of a split, from this model's MainNet; none before its first block."""
        rows = self.rows[name]
        return cache_features(
            model,
            rows.dataset,
            self.cache_dir / "features",
            collate_fn=rows.collate_fn,
            candidates=[candidate for candidate in candidates if candidate.exit_layer > 0],
            data_fingerprint=rows.fingerprint,
            batch_size=self.batch_size,
            accelerator=self.accelerator,
            progress=self.progress,
            description=f"Features of {name} rows",
        )

    def labels(self, features: Features) -> torch.Tensor:
        """Return class indices, or the MainNet's answers if there are no labels."""
        labels = features.labels
        return self.task.answer(features.mainnet_logits) if labels is None or (labels == NO_LABEL).all() else labels

    def answered(self, features: Features, name: str) -> Answered:
        """Return the MainNet's answers to the labeled rows of a split, without certification rows."""
        labels = torch.tensor(self.rows[name].labels)
        logits = features.mainnet_logits
        if name == "validation":
            return Answered.from_logits("design", logits[self.split.design], labels[self.split.design], self.task)
        return Answered.from_logits(name, logits, labels, self.task)

    def train_heads(
        self,
        given: SideNetPreTrainedModel,
        processor: Processor | None,
        features: Mapping[str, Features],
        candidates: Sequence[Candidate],
        settings: HeadTraining,
        *,
        learning: SomeRows | None = None,
        stopping: SomeRows | None = None,
    ) -> Trained:
        """Train all candidate SideNets.

        Args:
            given ([`SideNetPreTrainedModel`]): model of the MainNet.
            processor (tokenizer or image processor, *optional*): its processor.
            features (`Mapping[str, Features]`): features of the rows, by split.
            candidates (`Sequence[Candidate]`): see [`all_candidates`].
            settings ([`HeadTraining`]): training settings.
            learning ([`SomeRows`], *optional*): rows to train on, by default the training rows.
            stopping ([`SomeRows`], *optional*): rows for early stopping, by default the design rows.
        """
        parts = (learning or self.some("train"), stopping or self.some("validation", self.split.design))
        learn, stop = (self._head_data(features[part.name], part, candidates) for part in parts)
        before = [candidate for candidate in candidates if candidate.exit_layer == 0]
        if not before:
            return Trained(train_heads(learn, stop, settings, progress=self.progress), {})
        if given.modality.has_tokens:
            return self._train_with_texts(given, processor, parts, (learn, stop), before, settings)
        return self._train_with_pixels(given, parts, (learn, stop), settings)

    def _head_data(self, features: Features, part: SomeRows, candidates: Sequence[Candidate]) -> HeadData:
        which = slice(None) if part.which is None else part.which
        inputs = {c: features.features(c)[which] for c in candidates if c.exit_layer > 0}
        return HeadData(inputs, features.mainnet_logits[which].float(), self.labels(features)[which], self.task)

    def _train_with_texts(
        self,
        given: SideNetPreTrainedModel,
        processor: Processor | None,
        parts: tuple[SomeRows, SomeRows],
        data: tuple[HeadData, HeadData],
        before: Sequence[Candidate],
        settings: HeadTraining,
    ) -> Trained:
        """Train SideNets before the first block too; the one on embeddings trains along with those after blocks."""
        ngrams = NgramTraining()
        sizes = text_sizes(given, processor, ngrams)
        learn, stop = (self._texts(part, sizes) for part in parts)
        texts = (learn, stop)
        on_embeddings = Candidate(0, EMBEDDINGS)
        reads_embeddings = has_token_embeddings(given.mainnet) and any(EMBEDDINGS in each.pooling for each in before)
        if reads_embeddings:
            data = (
                replace(data[0], features={**data[0].features, on_embeddings: texts[0].embeddings(given.mainnet)}),
                replace(data[1], features={**data[1].features, on_embeddings: texts[1].embeddings(given.mainnet)}),
            )
        trained: dict[Candidate, nn.Module] = dict(train_heads(*data, settings, progress=self.progress))
        embedded = cast("SideNet | None", trained.pop(on_embeddings, None))
        found = train_text_exits(given.mainnet, sizes, texts, data, embedded, settings, ngrams, progress=self.progress)
        inputs = {candidate: found.sidenets[candidate] for candidate in before if candidate in found.sidenets}
        return Trained({**inputs, **trained}, dict.fromkeys(inputs, found.sizes))

    def _train_with_pixels(
        self,
        given: SideNetPreTrainedModel,
        parts: tuple[SomeRows, SomeRows],
        data: tuple[HeadData, HeadData],
        settings: HeadTraining,
    ) -> Trained:
        """Train nets of several sizes on the pixels too."""
        trained: dict[Candidate, nn.Module] = dict(train_heads(*data, settings, progress=self.progress))
        own = self.pixels
        sizes = pixel_sizes(given, own, given.task.num_outputs(given.config))
        learn, stop = parts
        resolution = max(each["size"] for each in sizes.values())
        which = own.rows_that_fit(len(learn), next(iter(sizes.values()))["num_channels"], resolution)
        learning, stopping = (
            read_pixels(
                part.dataset,
                part.collate_fn,
                resolution,
                progress=self.progress,
                description=f"Pixels of {part.name} rows",
            )
            for part in (learn.take(which), stop)
        )
        train = replace(data[0], features={}, **_rows_of(data[0], which))
        mirrored = answers_mirrored_alike(given, stop.dataset, stop.collate_fn)
        about = [
            *(part.fingerprint for part in parts),
            fingerprint_model(given.mainnet),
        ]
        inputs = {
            candidate: train_pixel_exit(
                size,
                (learning, stopping),
                (train, replace(data[1], features={})),
                settings,
                own,
                mirrored=mirrored,
                directory=self.cache_dir / "pixel_exits" if self.is_main else None,
                about=about,
                progress=self.progress,
            )
            for candidate, size in sizes.items()
        }
        return Trained({**inputs, **trained}, sizes)

    def _texts(self, part: SomeRows, sizes: Mapping[str, Any]) -> TextRows:
        return TextRows.read(
            part.dataset,
            part.collate_fn,
            sizes,
            progress=self.progress,
            description=f"N-grams of {part.name} rows",
        )

    def logits(
        self,
        sidenet: nn.Module,
        candidate: Candidate,
        name: str,
        features: Features,
        which: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a SideNet's logits for the rows of a split, or for some of them, without running the MainNet.

        Args:
            sidenet (`nn.Module`): the SideNet, in evaluation mode.
            candidate ([`Candidate`]): its place.
            name (`str`): name of the split.
            features ([`Features`]): features of the split.
            which (`torch.LongTensor`, *optional*): indices of the rows, by default all.
        """
        if candidate.exit_layer == 0:
            part = self.some(name, which)
            return input_logits(sidenet, part.dataset, part.collate_fn, progress=False)
        read = features.features(candidate)
        return sidenet_logits(cast(SideNet, sidenet), read if which is None else read[which])

    def records(
        self, model: SideNetPreTrainedModel, name: str, features: Features, reference: Features
    ) -> ExitRecords:
        """Make exit records of a split from a model's cached features, with the MainNet logits of `reference`."""
        candidates = [Candidate(*place) for place in zip(model.config.exit_layers, model.config.pooling, strict=True)]
        with evaluating(model.sidenets):
            columns = [
                self.logits(sidenet, candidate, name, features)
                for candidate, sidenet in zip(candidates, model.sidenets, strict=True)
            ]
        exit_logits = stack_exits([*columns, features.mainnet_logits])
        records = ExitRecords(exit_logits, self.labels(features), reference.mainnet_logits.clone(), self.task)
        return chained_records(records, model.config.chain)

    @torch.no_grad()
    def check_live(self, model: SideNetPreTrainedModel, records: ExitRecords) -> None:
        """Check the cached records against the model itself, on the first rows.

        Raises:
            RuntimeError: they differ by more than rounding.
        """
        rows = self.rows["validation"]
        count = min(self.batch_size, len(rows))
        batch = rows.collate_fn([rows.dataset[i] for i in range(count)])
        with evaluating(model):
            live = model(**model_inputs(batch, model.device, model.dtype), thresholds=1.0).exit_logits.cpu().float()
        cached = records.exit_logits[:count].float()
        difference, scale = (live - cached).abs().max(), cached.abs().max()
        tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
        if not difference <= tolerance * max(scale, 1.0):
            raise RuntimeError(
                f"the model's answers differ from those on cached features by {difference:.2g} (of {scale:.2g}), so "
                "its rows or weights have changed: remove the cached features and start again."
            )


def load_mainnet(
    mainnet: str | nn.Module,
    processor: Processor | None,
    hub_kwargs: dict[str, Any],
    blocks: str | None = None,
) -> tuple[SideNetPreTrainedModel, Processor | None]:
    """Load the MainNet, with one untrained SideNet to access its blocks, and the processor.

    Raises:
        ValueError: the checkpoint already has SideNets, or they cannot be attached.
    """
    hub_kwargs = dict(hub_kwargs)
    weights = hub_kwargs.pop("weights", None)
    if is_named(mainnet):
        mainnet = load_named(cast(str, mainnet), weights)
    elif weights is not None:
        raise ArgumentError("weights", "must be given only with a name such as 'torchvision:resnet18'", str(weights))
    network = network_arguments(mainnet, hub_kwargs)
    source = as_mainnet(mainnet, **network)
    if isinstance(source, PreTrainedModel):
        if processor is None and source is not mainnet:
            processor = own_processor(source.config)
        if set(hub_kwargs) - {"trust_remote_code"}:
            raise ValueError(f"attach takes {sorted(hub_kwargs)} only with a checkpoint name, got a model.")
        hub_kwargs["code"] = network.get("code")
        config = source.config
    else:
        known = {
            name: value for name, value in hub_kwargs.items() if name in ("revision", "token", "trust_remote_code")
        }
        config = AutoConfig.from_pretrained(source, **known)
    if config.model_type == "sidenet":
        raise ArgumentError(
            "mainnet",
            f"must be a plain classifier, but {mainnet!r} has SideNets: recalibrate it instead",
        )
    model = sidenet_class(config).from_mainnet(source, exit_layers=[1], blocks=blocks, **hub_kwargs)
    if processor is None and not isinstance(source, PreTrainedModel):
        processor = load_processor(str(source), model.modality, **known)
    return model, processor


def at_input_size(model: SideNetPreTrainedModel, rows: Rows) -> SideNetPreTrainedModel:
    """Return a model for the size of these images, which may differ from the MainNet's config."""
    if model.config.input_size is None:
        return model
    size = list(rows.dataset[0][model.modality.main_inputs[0]].shape)
    if size == model.config.input_size:
        return model
    return type(model).from_mainnet(
        model.mainnet,
        exit_layers=[1],
        input_size=size,
        blocks=model.config.blocks,
        trust_remote_code=model.config.mainnet_code is not None,
    )


def place_sidenets(
    run: AttachRun,
    given: SideNetPreTrainedModel,
    features: Features,
    trained: Trained,
    hidden_size: int,
    *,
    level: float,
    test: str,
    max_exits: int,
    chaining: Chaining,
) -> tuple[list[Placement], list[dict[str, Any]]]:
    """Rank placements on the design rows, best first, and tabulate the candidates."""
    design = run.split.design
    labels, mainnet_logits = run.labels(features)[design], features.mainnet_logits[design]
    logits = {c: run.logits(sidenet, c, "validation", features, design) for c, sidenet in trained.sidenets.items()}
    budget = next((target for target in run.targets if isinstance(target, Budget)), None)
    (batch,) = first_batches(run.rows["validation"], run.batch_size, 1, run.split.design)
    currency = "params" if budget is not None and budget.currency == "params" else "flops"
    before = {candidate: sidenet for candidate, sidenet in trained.sidenets.items() if candidate.exit_layer == 0}
    costs = cost_model(given, batch, list(trained.sidenets), hidden_size, currency, before)
    limit = None if budget is None else budget.limit
    if budget is not None and budget.is_time:
        # FLOPs approximate time until there is a model to time.
        limit = budget.limit / _milliseconds_per_row(given, batch)
    placements = place(
        logits,
        mainnet_logits,
        labels,
        costs,
        run.targets,
        num_certification_rows=len(run.split.certification),
        level=level,
        test=test,
        budget=limit,
        max_exits=max_exits,
        chaining=chaining,
        task=run.task,
    )
    table = [
        {
            "exit_layer": candidate.exit_layer,
            "pooling": candidate.pooling,
            "size": candidate.size,
            "design_accuracy": accuracy(logits[candidate], labels, run.task),
            currency: _alone(costs, candidate),
        }
        for candidate in trained.sidenets
    ]
    return placements, table


def placement_table(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """Tabulate the best placements, for the report."""
    return [
        {
            "exits": [candidate.name for candidate in placement.candidates],
            "expected_cost": placement.cost,
            "expected_accuracy": placement.accuracy,
        }
        for placement in placements[:SHOWN_PLACEMENTS]
    ]


def attached_model(
    given: SideNetPreTrainedModel,
    mainnet: str | nn.Module,
    chosen: Sequence[Candidate],
    trained: Trained,
    settings: HeadTraining,
    *,
    own_mainnet: bool,
) -> SideNetPreTrainedModel:
    """Make a model with the chosen SideNets, on the given MainNet or a copy of it."""
    config = SideNetConfig(
        given.mainnet.config,
        exit_layers=[candidate.exit_layer for candidate in chosen],
        pooling=[candidate.pooling for candidate in chosen],
        sidenet_hidden_size=settings.hidden_size,
        input_size=given.config.input_size,
        blocks=given.config.blocks,
        # What was observed before.
        block_shapes=given.config.block_shapes,
        layout=given.config.layout,
        mainnet_code=given.config.mainnet_code,
        input_sidenet=trained.input_sizes.get(chosen[0]),
    )
    config.name_or_path = mainnet if isinstance(mainnet, str) else given.config.name_or_path
    model = type(given)(config, copy.deepcopy(given.mainnet) if own_mainnet else given.mainnet).eval()
    for sidenet, candidate in zip(model.sidenets, chosen, strict=True):
        sidenet.load_state_dict(trained.sidenets[candidate].state_dict())
    return model


def _rows_of(data: HeadData, which: torch.Tensor) -> dict[str, torch.Tensor | None]:
    labels = None if data.labels is None else data.labels[which]
    return {"mainnet_logits": data.mainnet_logits[which], "labels": labels}


def _alone(costs: CostModel, candidate: Candidate) -> float:
    return costs.exits([candidate])[0]


def tell_where_it_runs(model: SideNetPreTrainedModel) -> None:
    """Warn if the model cannot run stage by stage in a runner."""
    try:
        Stages(model)
    except ValueError as error:
        logger.warning("A runner can only use the model's own forward (`routing='gates'`): %s", error)


def name_classes(model: SideNetPreTrainedModel, names: Sequence[str]) -> None:
    """Rename the classes as in a [`ClassMap`], which replaces placeholders and wrong names."""
    config = model.config
    if list(names) == label_names(config):
        return
    for each in (config, config.mainnet_config):
        each.id2label = dict(enumerate(names))
        each.label2id = {name: i for i, name in enumerate(names)}


@torch.no_grad()
def _milliseconds_per_row(model: SideNetPreTrainedModel, batch: Mapping[str, Any]) -> float:
    inputs = model_inputs(batch, model.device, model.dtype)
    times = []
    with evaluating(model):
        for _ in range(4):
            start = time.perf_counter()
            # Copied to the CPU to wait for a GPU.
            model.mainnet(**inputs).logits.cpu()
            times.append(time.perf_counter() - start)
    return 1e3 * min(times) / next(iter(inputs.values())).shape[0]
