# SPDX-License-Identifier: Apache-2.0
"""Train the SideNet before the first block of a text MainNet: on n-grams, on the MainNet's token embeddings, or both.

The MainNet does not run: its recorded logits teach, and its table of token embeddings is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.utils import logging

from ..data.formats import MapStyle, Processor
from ..measurement.inputs import model_inputs
from ..models.errors import ArgumentError
from ..models.input_exit import TextInputSideNet, default_sizes, ngram_buckets
from ..models.modalities import BOTH, EMBEDDINGS, NGRAMS
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.sidenet import SideNet
from .features import Candidate
from .heads import HeadData, HeadTraining, head_loss


ROWS_AT_ONCE = 256
# N-grams build on half of the logits from embeddings: both learn from the same few rows, and the sum of two confident
# guesses is too confident.
SHARE = 0.5


@dataclass(frozen=True)
class NgramTraining:
    """Training settings of the n-grams.

    Args:
        num_buckets (`int`): number of hash buckets.
        max_ngrams (`int`): maximum number of n-grams with a vector, the most frequent ones.
        min_count (`int`): number of training rows that must contain an n-gram.
        max_rank (`int`): width of the vectors if there are more classes.
        max_epochs (`int`): maximum number of passes over the training rows.
        patience (`int`): stop after this many epochs without a lower loss on the stopping rows.
        batch_size (`int`): rows per step.
        learning_rate (`float`): learning rate of Adam.

    Raises:
        ValueError: a number is not positive.
    """

    num_buckets: int = 2**17
    max_ngrams: int = 2**16
    min_count: int = 1
    max_rank: int = 32
    max_epochs: int = 20
    patience: int = 3
    batch_size: int = 64
    learning_rate: float = 5e-3

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ArgumentError(name, "must be > 0", value)


@dataclass(frozen=True)
class Bags:
    """Several integers per row.

    Args:
        values (`torch.LongTensor`): integers of all rows, one row after the other.
        starts (`torch.LongTensor` of shape `(num_rows + 1,)`): where each row starts, and the end.
    """

    values: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, parts: Sequence[torch.Tensor], counts: Sequence[torch.Tensor]) -> "Bags":
        """Join batches: the integers of each, and their number per row."""
        starts = F.pad(torch.cat([*counts]).cumsum(0), (1, 0))
        return cls(torch.cat([*parts]), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the integers of some rows, and where each of these rows starts, as `F.embedding_bag` takes them."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = lengths.cumsum(0)
        offsets = ends - lengths
        index = torch.arange(int(ends[-1])) + torch.repeat_interleave(self.starts[rows] - offsets, lengths)
        return self.values[index], offsets


@dataclass(frozen=True)
class TextRows:
    """Tokens and n-grams of the rows of a split.

    Args:
        tokens ([`Bags`]): ids of the tokens that count.
        ngrams ([`Bags`]): buckets of the n-grams.
    """

    tokens: Bags
    ngrams: Bags

    @classmethod
    def read(
        cls,
        dataset: MapStyle,
        collate_fn: Callable[[list[Any]], Mapping[str, Any]],
        sizes: Mapping[str, Any],
        *,
        progress: bool = True,
        description: str = "Reading n-grams",
    ) -> "TextRows":
        """Read all rows of a data set.

        Args:
            dataset (map-style data set): rows as dicts of MainNet inputs.
            collate_fn (`Callable`): function that collates a list of rows.
            sizes (`Mapping[str, Any]`): `input_sidenet` of a [`SideNetConfig`].
            progress (`bool`, *optional*, defaults to `True`): show a progress bar.
            description (`str`, *optional*): label of the progress bar.
        """
        reader = TextInputSideNet(1, 1, (), **sizes)
        tokens, ngrams, num_tokens, num_ngrams = [], [], [], []
        for batch in batches_of(dataset, collate_fn, progress, description):
            input_ids, ordinary = reader.ordinary(model_inputs(batch, torch.device("cpu"), torch.float32))
            buckets = ngram_buckets(input_ids, ordinary, reader.num_buckets)
            tokens.append(input_ids[ordinary])
            num_tokens.append(ordinary.sum(1))
            known = buckets < reader.num_buckets
            ngrams.append(buckets[known])
            num_ngrams.append(known.sum(1))
        return cls(Bags.of(tokens, num_tokens), Bags.of(ngrams, num_ngrams))

    def embeddings(self, mainnet: PreTrainedModel) -> torch.Tensor:
        """Return the mean token embedding of each row, of shape `(num_rows, width)`; zeros for a row without tokens.

        Args:
            mainnet (`PreTrainedModel`): the MainNet.
        """
        table = _embeddings(mainnet)
        parts = torch.arange(len(self.tokens)).split(ROWS_AT_ONCE)
        return torch.cat([_bag(self.tokens, rows, table, mode="mean") for rows in parts])


def has_token_embeddings(mainnet: PreTrainedModel) -> bool:
    """Return whether a MainNet has one embedding per token; one that hashes characters (CANINE) does not."""
    try:
        return isinstance(mainnet.get_input_embeddings(), nn.Embedding)
    except NotImplementedError:
        return False


def text_sizes(model: SideNetPreTrainedModel, processor: Processor | None, settings: NgramTraining) -> dict[str, Any]:
    """Return the sizes of the SideNet before the first block of a text MainNet, before the n-grams are counted.

    Args:
        model ([`SideNetPreTrainedModel`]): the model.
        processor (tokenizer, *optional*): defines the special tokens, in addition to those of the MainNet's config.
        settings ([`NgramTraining`]): training settings.
    """
    sizes = default_sizes(model.config, model.modality, model.task.num_outputs(model.config))
    if has_token_embeddings(model.mainnet):
        sizes["vocab_size"] = cast(nn.Embedding, model.mainnet.get_input_embeddings()).num_embeddings
    special = set(getattr(processor, "all_special_ids", ())) - {getattr(processor, "unk_token_id", None)}
    return {
        **sizes,
        "num_buckets": settings.num_buckets,
        "rank": min(model.task.num_outputs(model.config), settings.max_rank),
        "special_ids": sorted({*sizes["special_ids"], *special}),
    }


@dataclass(frozen=True)
class TextExits:
    """Trained candidates for the SideNet before the first block.

    Args:
        sizes (`dict[str, Any]`): their `input_sidenet` for the config.
        sidenets (`dict[Candidate, TextInputSideNet]`): SideNets in evaluation mode, by what they read.
    """

    sizes: dict[str, Any]
    sidenets: dict[Candidate, TextInputSideNet]


def train_text_exits(
    mainnet: PreTrainedModel,
    sizes: Mapping[str, Any],
    rows: tuple[TextRows, TextRows],
    data: tuple[HeadData, HeadData],
    embedded: SideNet | None,
    heads: HeadTraining,
    settings: NgramTraining,
    *,
    progress: bool = True,
) -> TextExits:
    """Train a SideNet before the first block on n-grams alone, and one on n-grams and token embeddings.

    Each keeps the weights of its best epoch on the stopping rows.

    Args:
        mainnet (`PreTrainedModel`): the MainNet.
        sizes (`Mapping[str, Any]`): see [`text_sizes`].
        rows (`tuple[TextRows, TextRows]`): training rows and stopping rows.
        data (`tuple[HeadData, HeadData]`): their labels and MainNet logits; features are not used.
        embedded ([`SideNet`], *optional*): a SideNet trained on [`TextRows.embeddings`], for the second one.
        heads ([`HeadTraining`]): loss, hidden size and seed.
        settings ([`NgramTraining`]): everything else.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Raises:
        ValueError: no n-gram is frequent enough.
    """
    slots, num_ngrams = _frequent(rows[0].ngrams, sizes["num_buckets"], settings)
    sizes = {**sizes, "num_ngrams": num_ngrams}
    num_outputs = data[0].mainnet_logits.shape[1]
    found: dict[Candidate, TextInputSideNet] = {}
    total = settings.max_epochs * (1 if embedded is None else 2)
    with logging.tqdm(total=total, desc="Training on n-grams", disable=not progress) as bar:
        for reads in (NGRAMS,) if embedded is None else (NGRAMS, EMBEDDINGS, BOTH):
            # Each from the same seed.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(heads.seed)
                sidenet = TextInputSideNet(num_outputs, heads.hidden_size, reads.split("+"), **sizes)
            offsets = None
            if embedded is not None and reads != NGRAMS:
                share = SHARE if reads == BOTH else 1.0
                _fold(sidenet, embedded, _embeddings(mainnet), share)
                offsets = [share * _logits(embedded, part.embeddings(mainnet)) for part in rows]
            if reads != EMBEDDINGS:
                nn.init.zeros_(cast(nn.Embedding, sidenet.ngrams).weight)
                sidenet.slots.copy_(slots)
                _learn(sidenet, rows, data, offsets, heads, settings, bar)
            found[Candidate(0, reads)] = sidenet.eval()
    return TextExits(sizes, found)


@torch.no_grad()
def input_logits(
    sidenet: nn.Module,
    dataset: MapStyle,
    collate_fn: Callable[[list[Any]], Mapping[str, Any]],
    *,
    progress: bool = True,
    description: str = "Reading inputs",
) -> torch.Tensor:
    """Return the logits of a SideNet before the first block for all rows, `(num_rows, num_labels)`, on the CPU.

    Args:
        sidenet (`nn.Module`): the SideNet, in evaluation mode.
        dataset (map-style data set): rows as dicts of MainNet inputs.
        collate_fn (`Callable`): function that collates a list of rows.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        description (`str`, *optional*): label of the progress bar.
    """
    weight = next(sidenet.parameters())
    batches = batches_of(dataset, collate_fn, progress, description)
    return torch.cat([sidenet(model_inputs(batch, weight.device, weight.dtype)).cpu() for batch in batches])


def batches_of(dataset: MapStyle, collate_fn: Callable, progress: bool, description: str) -> Any:
    """Iterate over a data set in batches, in order.

    Args:
        dataset (map-style data set): the rows.
        collate_fn (`Callable`): function that collates a list of rows.
        progress (`bool`): show a progress bar.
        description (`str`): label of the progress bar.
    """
    loader = DataLoader(cast(Dataset, dataset), ROWS_AT_ONCE, collate_fn=collate_fn, generator=torch.Generator())
    return logging.tqdm(loader, desc=description, disable=not progress)


def _embeddings(mainnet: PreTrainedModel) -> torch.Tensor:
    return cast(nn.Embedding, mainnet.get_input_embeddings()).weight.detach().float().cpu()


def _bag(bags: Bags, rows: torch.Tensor, table: torch.Tensor, mode: str) -> torch.Tensor:
    values, offsets = bags.take(rows)
    return F.embedding_bag(values, table, offsets, mode=mode)


def _frequent(ngrams: Bags, num_buckets: int, settings: NgramTraining) -> tuple[torch.Tensor, int]:
    """Number the most frequent n-grams from 1; 0 for the others."""
    row_of = torch.repeat_interleave(torch.arange(len(ngrams)), ngrams.starts.diff())
    # Once per row.
    seen = torch.unique(row_of * num_buckets + ngrams.values) % num_buckets
    counts = torch.bincount(seen, minlength=num_buckets)
    order = torch.sort(counts, descending=True, stable=True).indices[: settings.max_ngrams]
    kept = order[counts[order] >= settings.min_count].sort().values
    if len(kept) == 0:
        raise ArgumentError("min_count", "must be reached by an n-gram of the training rows", settings.min_count)
    slots = torch.zeros(num_buckets + 1, dtype=torch.int32)
    slots[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int32)
    return slots, len(kept)


@torch.no_grad()
def _fold(sidenet: TextInputSideNet, head: SideNet, table: torch.Tensor, share: float) -> None:
    """Copy a head over mean embeddings: one vector per token after its first layer, and the rest of it."""
    assert sidenet.tokens is not None  # It reads embeddings.
    sidenet.tokens.weight.copy_(F.linear(table, head.dense.weight.float().cpu(), head.dense.bias.float().cpu()))
    sidenet.norm.load_state_dict(head.norm.state_dict())
    sidenet.out_proj.weight.copy_(share * head.out_proj.weight)
    sidenet.out_proj.bias.copy_(share * head.out_proj.bias)


@torch.no_grad()
def _logits(head: SideNet, features: torch.Tensor) -> torch.Tensor:
    return head(features.to(head.dense.weight)).float().cpu()


def _ngram_logits(sidenet: TextInputSideNet, bags: Bags, rows: torch.Tensor) -> torch.Tensor:
    """Compute the part of the logits that n-grams give, as the SideNet does, without padding."""
    assert sidenet.ngrams is not None
    values, offsets = bags.take(rows)
    total = F.embedding_bag(sidenet.slots[values], sidenet.ngrams.weight, offsets.int(), mode="sum", padding_idx=0)
    return sidenet.bias + (total if sidenet.ngram_proj is None else sidenet.ngram_proj(total))


def _learn(
    sidenet: TextInputSideNet,
    rows: tuple[TextRows, TextRows],
    data: tuple[HeadData, HeadData],
    offsets: Sequence[torch.Tensor] | None,
    heads: HeadTraining,
    settings: NgramTraining,
    bar: Any,
) -> None:
    assert sidenet.ngrams is not None
    learned = [sidenet.ngrams.weight, sidenet.bias]
    if sidenet.ngram_proj is not None:
        learned.append(sidenet.ngram_proj.weight)
    optimizer = torch.optim.Adam(learned, lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(heads.seed)

    def loss_of(part: int, which: torch.Tensor) -> torch.Tensor:
        logits = _ngram_logits(sidenet, rows[part].ngrams, which)
        logits = logits if offsets is None else logits + offsets[part][which]
        return head_loss(logits, data[part], which, heads)

    best_loss, best, waited = float("inf"), [parameter.detach().clone() for parameter in learned], 0
    for epoch in range(settings.max_epochs):
        for which in torch.randperm(len(data[0]), generator=generator).split(settings.batch_size):
            loss = loss_of(0, which)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bar.update()
        with torch.no_grad():
            loss = loss_of(1, torch.arange(len(data[1]))).item()
        # NaN never is lower.
        if loss < best_loss:
            best_loss, best, waited = loss, [parameter.detach().clone() for parameter in learned], 0
        else:
            waited += 1
        if waited >= settings.patience:
            bar.update(settings.max_epochs - epoch - 1)
            break
    with torch.no_grad():
        for parameter, value in zip(learned, best, strict=True):
            parameter.copy_(value)
