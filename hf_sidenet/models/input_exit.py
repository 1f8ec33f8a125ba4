# SPDX-License-Identifier: Apache-2.0
"""SideNet before the first block: it answers from the inputs alone, and the MainNet never sees a row that exits here.

In the paper's terms it reads x_0, the input itself (Morisot, arXiv 2007.13512, §3). For texts it is linear in the
n-grams of token ids, plus a one-hidden-layer head on the mean of the MainNet's token embeddings, with the hidden layer
folded into one vector per token: a few gathers and sums. For images it is a small convolutional net on the pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_sidenet import SideNetConfig
from .errors import ArgumentError
from .modalities import DEFAULT_VOCABULARY, EMBEDDINGS, NGRAMS, Modality
from .sidenet import BatchNorm, Linear


# Token ids are < 2**22; the second text of a pair has other n-grams than the first.
SEGMENT = 2**22
# Of the hash: primes, and a modulus that keeps all products below 2**63.
MULTIPLIER, MODULUS, MIXER = 1_000_003, 2**31 - 1, 48_271


def ngram_buckets(input_ids: torch.Tensor, ordinary: torch.Tensor, num_buckets: int) -> torch.Tensor:
    """Hash the unigrams and bigrams of token ids. Bigrams do not cross special tokens.

    Args:
        input_ids (`torch.LongTensor` of shape `(rows, tokens)`): token ids.
        ordinary (`torch.BoolTensor` of shape `(rows, tokens)`): tokens that count, neither padding nor special.
        num_buckets (`int`): number of buckets.

    Returns:
        `torch.LongTensor` of shape `(rows, 2 * tokens)`: buckets, `num_buckets` where there is no n-gram.
    """
    follows = F.pad(ordinary[:, :-1], (1, 0))
    # The text of a token: 0, or 1 after the first run of special tokens between ordinary ones.
    segment = ((ordinary & ~follows).long().cumsum(1) - 1).clamp(0, 1)
    tokens = input_ids.long() + 1 + SEGMENT * segment
    before = F.pad(tokens[:, :-1], (1, 0))
    keys = torch.cat([tokens, before * MULTIPLIER + tokens], dim=1)
    buckets = keys % MODULUS * MIXER % MODULUS % num_buckets
    return buckets.where(torch.cat([ordinary, ordinary & follows], dim=1), num_buckets)


class NgramTable(nn.Embedding):
    """One vector per n-gram, the first for all others: zero, before and after training."""

    def __init__(self, num_ngrams: int, width: int):
        super().__init__(num_ngrams + 1, width, padding_idx=0)


class TokenTable(nn.Embedding):
    """One vector per token: its embedding after the hidden layer."""


class TextInputSideNet(nn.Module):
    """SideNet that reads the token ids of a text.

    Args:
        num_outputs (`int`): number of logits.
        hidden_size (`int`): width of the hidden layer over the token embeddings.
        reads (`Sequence[str]`): `"ngrams"`, `"embeddings"`, or both, whose logits are added.
        num_buckets (`int`): number of hash buckets.
        num_ngrams (`int`): number of n-grams with a vector of their own; others are ignored.
        rank (`int`): width of these vectors; a linear layer follows if it differs from `num_outputs`.
        vocab_size (`int`): number of tokens; later ones (`resize_token_embeddings`) are ignored.
        special_ids (`Sequence[int]`): tokens that do not count, such as `[CLS]`, `[SEP]` and padding.
    """

    special_ids: torch.Tensor
    slots: torch.Tensor

    def __init__(
        self,
        num_outputs: int,
        hidden_size: int,
        reads: Sequence[str],
        *,
        num_buckets: int,
        num_ngrams: int,
        rank: int,
        vocab_size: int,
        special_ids: Sequence[int],
    ):
        super().__init__()
        self.num_buckets = num_buckets
        self.register_buffer("special_ids", torch.tensor([*special_ids, -1], dtype=torch.int32))
        self.ngrams = self.ngram_proj = self.tokens = None
        if NGRAMS in reads:
            # Bucket to row of the table. By default every bucket has one, as far as they go.
            slots = torch.arange(1, num_buckets + 2, dtype=torch.int32)
            self.register_buffer("slots", slots.where(slots <= min(num_ngrams, num_buckets), 0))
            self.ngrams = NgramTable(num_ngrams, rank)
            self.ngram_proj = None if rank == num_outputs else Linear(rank, num_outputs, bias=False)
            self.bias = nn.Parameter(torch.zeros(num_outputs))
        if EMBEDDINGS in reads:
            self.tokens = TokenTable(vocab_size, hidden_size)
            self.norm = BatchNorm(hidden_size)
            self.out_proj = Linear(hidden_size, num_outputs)

    def forward(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return logits of shape `(rows, num_outputs)`.

        Args:
            inputs (`Mapping[str, torch.Tensor]`): MainNet inputs, `input_ids` and `attention_mask` of shape
                `(rows, tokens)`.

        Raises:
            ValueError: there are no token ids, or the mask has another shape.
        """
        input_ids, ordinary = self.ordinary(inputs)
        parts = []
        if self.ngrams is not None:
            slots = self.slots[ngram_buckets(input_ids, ordinary, self.num_buckets)]
            total = _sum(self.ngrams(slots), self.ngrams.weight.dtype)
            parts.append(self.bias + (total if self.ngram_proj is None else self.ngram_proj(total)))
        if self.tokens is not None:
            known = ordinary & (input_ids < self.tokens.num_embeddings)
            vectors = self.tokens(input_ids.where(known, 0)) * known.unsqueeze(-1)
            counts = known.sum(1, keepdim=True).clamp(min=1)
            mean = _sum(vectors, self.tokens.weight.dtype, counts)
            parts.append(self.out_proj(F.relu(self.norm(mean))))
        return sum(parts[1:], parts[0])

    def ordinary(self, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token ids, and which of them count, both of shape `(rows, tokens)`.

        Args:
            inputs (`Mapping[str, torch.Tensor]`): see [`~TextInputSideNet.forward`].
        """
        input_ids = inputs.get("input_ids")
        if input_ids is None:
            raise ArgumentError(
                "input_ids", "must be given: the SideNet before the first block reads token ids", sorted(inputs)
            )
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise ArgumentError(
                "attention_mask",
                "must have shape (batch, sequence) for the SideNet before the first block",
                tuple(mask.shape),
            )
        ordinary = (input_ids.unsqueeze(-1) != self.special_ids).all(-1)
        return input_ids, ordinary if mask is None else ordinary & mask.bool()


def _sum(vectors: torch.Tensor, dtype: torch.dtype, counts: torch.Tensor | int = 1) -> torch.Tensor:
    # Sums of many small numbers, in at least float32.
    return (vectors.sum(1, dtype=torch.promote_types(dtype, torch.float32)) / counts).to(dtype)


class Residual(nn.Module):
    """Two 3×3 convolutions with BatchNorm, added to their input, or to a 1×1 convolution of it if the shape changes.

    Args:
        before (`int`): channels of the input.
        after (`int`): channels of the result.
        stride (`int`): stride of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(before, after, 3, stride), nn.ReLU(), *_convolution(after, after, 3, stride=1)
        )
        self.shortcut = (
            nn.Identity() if (before, stride) == (after, 1) else nn.Sequential(*_convolution(before, after, 1, stride))
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return a map of shape `(rows, after, height / stride, width / stride)`, rounded up."""
        return F.relu(self.shortcut(hidden) + self.body(hidden))


def _convolution(before: int, after: int, kernel_size: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(after),
    ]


class ImageInputSideNet(nn.Module):
    """SideNet that reads the pixels of an image: a small residual net.

    A 3×3 convolution halves the resolution, three residual blocks follow, of which the last two halve it again, and a
    linear layer reads the mean.

    Args:
        num_outputs (`int`): number of logits.
        num_channels (`int`): channels of the image.
        width (`int`): channels of the first two maps; the others have 2 and 4 times as many.
        size (`int`): height and width of what it reads; larger images are averaged down to it.
    """

    def __init__(self, num_outputs: int, *, num_channels: int, width: int, size: int):
        super().__init__()
        self.size = size
        self.body = nn.Sequential(
            *_convolution(num_channels, width, 3, stride=2),
            nn.ReLU(),
            Residual(width, width, stride=1),
            Residual(width, 2 * width, stride=2),
            Residual(2 * width, 4 * width, stride=2),
        )
        self.out_proj = Linear(4 * width, num_outputs)

    def forward(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return logits of shape `(rows, num_outputs)`.

        Args:
            inputs (`Mapping[str, torch.Tensor]`): MainNet inputs, `pixel_values` of shape
                `(rows, channels, height, width)`.
        """
        pixels = inputs["pixel_values"].to(self.out_proj.weight.dtype)
        height, width = pixels.shape[-2:]
        if min(height, width) > self.size:
            pixels = F.adaptive_avg_pool2d(pixels, self.size)
        return self.out_proj(self.body(pixels).mean((2, 3)))


DEFAULT_BUCKETS, DEFAULT_RANK = 2**16, 32
DEFAULT_WIDTH, DEFAULT_SIZE = 16, 32
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def default_sizes(config: SideNetConfig, modality: Modality, num_outputs: int) -> dict[str, Any]:
    """Return the sizes of an untrained SideNet before the first block, for `config.input_sidenet`.

    Args:
        config ([`SideNetConfig`]): config of the model.
        modality ([`Modality`]): its modality.
        num_outputs (`int`): number of logits.
    """
    mainnet = config.mainnet_config
    if not modality.has_tokens:
        size = modality.input_size(mainnet, config.input_size)
        assert size is not None  # Images have a size.
        return {"num_channels": size[0], "width": DEFAULT_WIDTH, "size": DEFAULT_SIZE}
    ids = (getattr(mainnet, name, None) for name in SPECIAL)
    return {
        "num_buckets": DEFAULT_BUCKETS,
        "num_ngrams": DEFAULT_BUCKETS,
        "rank": min(num_outputs, DEFAULT_RANK),
        "vocab_size": getattr(mainnet, "vocab_size", None) or DEFAULT_VOCABULARY,
        "special_ids": sorted({i for i in ids if isinstance(i, int)}),
    }


def new_input_sidenet(config: SideNetConfig, modality: Modality, num_outputs: int) -> nn.Module:
    """Return an untrained SideNet for the input, as the config describes it.

    Args:
        config ([`SideNetConfig`]): config with `input_sidenet`.
        modality ([`Modality`]): modality of the MainNet.
        num_outputs (`int`): number of logits.

    Raises:
        ValueError: `input_sidenet` has other fields, or the SideNet cannot read this.
    """
    reads, sizes = modality.reads(config.pooling[0]), config.input_sidenet or {}
    expected = set(default_sizes(config, modality, num_outputs))
    if set(sizes) != expected:
        raise ArgumentError("input_sidenet", f"must have the fields {sorted(expected)}", sorted(sizes))
    if modality.has_tokens:
        return TextInputSideNet(num_outputs, config.sidenet_hidden_size, reads, **sizes)
    return ImageInputSideNet(num_outputs, **sizes)
