# SPDX-License-Identifier: Apache-2.0
"""The SideNet itself: a pooling of x_c and the paper's one-hidden-layer head."""

import torch
from torch import nn
from torch.nn import functional as F


POOLINGS = ("auto", "mean", "cls", "gap", "flatten")


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm that normalises a training batch of one row by its running statistics instead of failing."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.training or features.shape[0] > 1:
            return super().forward(features)
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class Linear(nn.Linear):
    """`nn.Linear` by another name: `quantize_dynamic(model, {nn.Linear})` goes by the exact class and leaves SideNets,
    which are small, as they are."""


class SideNet(nn.Module):
    """One-hidden-layer head: Linear → BatchNorm → ReLU → Linear.

    This is the order of §4 of the paper (arXiv 2007.13512); its §3 says ReLU → BatchNorm. For two classes the paper
    uses one logit and a sigmoid, which is this head's softmax over two logits.

    Args:
        in_features (`int`): width of the pooled representation x_c.
        hidden_size (`int`): width of the hidden layer, 32 in the paper.
        num_labels (`int`): number of classes.
    """

    def __init__(self, in_features: int, hidden_size: int, num_labels: int):
        super().__init__()
        self.dense = Linear(in_features, hidden_size)
        self.norm = BatchNorm(hidden_size)
        self.out_proj = Linear(hidden_size, num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of shape `(batch, num_labels)` from pooled features of shape `(batch, in_features)`."""
        return self.out_proj(F.relu(self.norm(self.dense(features))))


def read_exit(
    sidenet: SideNet,
    pooling: str,
    hidden: torch.Tensor,
    mask: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits of one SideNet, of shape `(rows inside, num_labels)`.

    Args:
        sidenet ([`SideNet`]): the head.
        pooling (`str`): see [`pool`].
        hidden (`torch.Tensor`): x_c of the rows inside.
        mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): the `attention_mask` of the whole batch.
        rows (`torch.Tensor` of shape `(rows inside,)`, *optional*): places in the batch; `None` for all rows.

    Raises:
        ValueError: a flattened x_c has another size than the head was made for.
    """
    features = pool(hidden, pooling, pooling_mask(mask, pooling, rows))
    if pooling == "flatten" and features.shape[1] != sidenet.dense.in_features:
        raise ValueError(
            "`pooling='flatten'` reads images of the recorded size only (`config.input_size`, "
            f"{sidenet.dense.in_features} features), got {features.shape[1]} features."
        )
    # Not of the linear layers: where these are quantised, their weights are packed integers, or no tensor at all.
    weight = sidenet.norm.weight
    # An offloaded weight is on "meta" until its own hook fetches it.
    return sidenet(features.to(weight.dtype if weight.is_meta else weight))


def pool(hidden: torch.Tensor, pooling: str, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pool x_c to one vector per row.

    Args:
        hidden (`torch.Tensor` of shape `(batch, tokens, width)` or `(batch, channels, height, width)`):
            The intermediate representation.
        pooling (`str`):
            `"mean"` of the unmasked tokens; `"cls"`, the first token; `"gap"`, the mean over a feature map;
            `"flatten"`, everything; `"auto"`, `"mean"` for tokens and `"gap"` for maps.
        mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
            1 for tokens that count, 0 for padding.

    Returns:
        `torch.Tensor` of shape `(batch, in_features)`, in the dtype of `hidden`.
    """
    if pooling == "flatten":
        return hidden.flatten(1)
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(1)
    counts = mask.to(hidden.device).bool().unsqueeze(-1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # Filled, not multiplied: padding may hold anything, NaN too.
    total = hidden.masked_fill(~counts, 0).sum(1, dtype=wide)
    return (total / counts.sum(1).clamp(min=1)).to(hidden.dtype)


def pooling_mask(mask: torch.Tensor | None, pooling: str, rows: torch.Tensor | None = None) -> torch.Tensor | None:
    """The mask that [`pool`] reads, from the `attention_mask` of the whole batch.

    Args:
        mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for tokens that count, 0 for padding.
        pooling (`str`): see [`pool`]; only means read a mask.
        rows (`torch.Tensor` of shape `(rows inside,)`, *optional*): places in the batch; `None` for all rows.

    Raises:
        ValueError: the mask is not one number per token.
    """
    if mask is None or pooling not in ("auto", "mean"):
        return None
    if mask.dim() != 2:
        raise ValueError(
            "`attention_mask` must have shape (batch, sequence) for the SideNets' mean pooling, got "
            f"{tuple(mask.shape)}. Use `pooling='cls'` with other masks."
        )
    return mask if rows is None or mask.shape[0] == 1 else mask.index_select(0, rows.to(mask.device))


def pooled_size(shape: list[int], pooling: str, is_text: bool) -> int:
    """Width of the pooled representation of a block, and the check that this pooling fits it.

    Args:
        shape (`list[int]`): x_c without the batch axis; for text without the sequence axis too.
        pooling (`str`): see [`pool`].
        is_text (`bool`): text has no fixed number of tokens.

    Raises:
        ValueError: the pooling cannot read this representation.
    """
    if pooling == "flatten" and is_text:
        raise ValueError("`pooling='flatten'` needs inputs of one size, and texts differ: use 'mean' or 'cls'.")
    if pooling == "flatten":
        return torch.Size(shape).numel()
    is_map = len(shape) == 3
    if (pooling == "gap" and not is_map) or (pooling in ("mean", "cls") and is_map):
        kind, fitting = ("feature map", "gap") if is_map else ("sequence of tokens", "mean' or 'cls")
        raise ValueError(f"`pooling={pooling!r}` does not fit a {kind} of shape {shape}: use '{fitting}' or 'auto'.")
    return shape[0] if is_map else shape[-1]
