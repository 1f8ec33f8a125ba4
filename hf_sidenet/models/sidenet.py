# SPDX-License-Identifier: Apache-2.0
"""The SideNet itself: pooling of x_c and the paper's one-hidden-layer head."""

import torch
from torch import nn
from torch.nn import functional as F

from .errors import ArgumentError
from .tasks import Task


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm that uses its running statistics for a training batch of one row, instead of failing."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.training or features.shape[0] > 1:
            return super().forward(features)
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class Linear(nn.Linear):
    """`nn.Linear` subclass that `quantize_dynamic(model, {nn.Linear})` skips, because it matches the exact class."""


class SideNet(nn.Module):
    """One-hidden-layer head: Linear → BatchNorm → ReLU → Linear.

    The order is that of §4 of the paper (arXiv 2007.13512); its §3 says ReLU → BatchNorm. For two classes, the paper
    uses one logit and a sigmoid, equivalent to this head's softmax over two logits.

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
        """Return logits of shape `(batch, num_labels)` for pooled features of shape `(batch, in_features)`."""
        return self.out_proj(F.relu(self.norm(self.dense(features))))


def read_exit(
    sidenet: SideNet,
    pooling: str,
    hidden: torch.Tensor,
    mask: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the logits of one SideNet, of shape `(remaining rows, num_labels)`.

    Args:
        sidenet ([`SideNet`]): the head.
        pooling (`str`): see [`pool`].
        hidden (`torch.Tensor`): x_c of the remaining rows.
        mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): `attention_mask` of the whole batch.
        rows (`torch.Tensor` of shape `(remaining rows,)`, *optional*): batch positions; `None` for all rows.

    Raises:
        ValueError: the size of a flattened x_c does not match the head.
    """
    features = pool(hidden, pooling, pooling_mask(mask, pooling, rows))
    if pooling == "flatten" and features.shape[1] != sidenet.dense.in_features:
        raise ValueError(
            "`pooling='flatten'` reads images of the recorded size only (`config.input_size`, "
            f"{sidenet.dense.in_features} features), got {features.shape[1]} features."
        )
    # Not from the linear layers: quantized weights are packed integers, or not tensors at all.
    weight = sidenet.norm.weight
    # An offloaded weight is on "meta" until its hook loads it.
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
    # Filled, not multiplied: padding may contain anything, even NaN.
    total = hidden.masked_fill(~counts, 0).sum(1, dtype=wide)
    return (total / counts.sum(1).clamp(min=1)).to(hidden.dtype)


def pooling_mask(mask: torch.Tensor | None, pooling: str, rows: torch.Tensor | None = None) -> torch.Tensor | None:
    """Return the mask for [`pool`], from the `attention_mask` of the whole batch.

    Args:
        mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for tokens that count, 0 for padding.
        pooling (`str`): see [`pool`]; only means use a mask.
        rows (`torch.Tensor` of shape `(remaining rows,)`, *optional*): batch positions; `None` for all rows.

    Raises:
        ValueError: the mask does not have one value per token.
    """
    if mask is None or pooling not in ("auto", "mean"):
        return None
    if mask.dim() != 2:
        raise ArgumentError(
            "attention_mask",
            "must have shape (batch, sequence) for the SideNets' mean pooling, got "
            f"{tuple(mask.shape)}. Use `pooling='cls'` with other masks",
        )
    return mask if rows is None or mask.shape[0] == 1 else mask.index_select(0, rows.to(mask.device))


def exit_loss(
    sidenet_logits: list[torch.Tensor],
    mainnet_logits: torch.Tensor | None,
    labels: torch.Tensor | None,
    teacher_logits: torch.Tensor | None = None,
    *,
    task: Task,
    alpha: list[float],
    distillation_weight: float = 0.0,
    distillation_temperature: float = 1.0,
    teach_mainnet: bool = False,
) -> torch.Tensor | None:
    """Compute `L_M + Σ α_i · L_Si` over the computed exits.

    Args:
        sidenet_logits (`list[torch.Tensor]`): one tensor of shape `(batch, num_labels)` per SideNet.
        mainnet_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*):
            `None` if the MainNet did not run to its end; then there is no L_M.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Without labels, only the distillation terms remain.
        teacher_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*):
            Distillation target, by default `mainnet_logits`.
        task ([`Task`]): defines the losses.
        alpha (`list[float]`): α of each SideNet.
        distillation_weight (`float`): w in `L_S = (1 − w) · CE + w · T² · KL`; needs either of the two logits.
        distillation_temperature (`float`): T.
        teach_mainnet (`bool`):
            Distill `teacher_logits` into the MainNet too: L_M has the form of L_S, which keeps it close to the
            classifier that produced these logits.

    Returns:
        `torch.Tensor` of shape `()`, or `None` if there is nothing to learn from.
    """
    exits = list(zip(alpha, sidenet_logits, strict=True))
    terms: list[torch.Tensor] = []
    if teach_mainnet and teacher_logits is not None and mainnet_logits is not None and distillation_weight > 0:
        exits.append((1.0, mainnet_logits))
    elif labels is not None and mainnet_logits is not None:
        terms.append(task.loss(mainnet_logits, labels))
    if teacher_logits is None:
        teacher_logits = mainnet_logits
    for weight, logits in exits:
        if labels is not None:
            terms.append(weight * (1 - distillation_weight) * task.loss(logits, labels))
        if distillation_weight > 0:
            assert teacher_logits is not None  # Without recorded logits, the MainNet runs to its end.
            divergence = task.distillation(logits, teacher_logits, distillation_temperature)
            terms.append(weight * distillation_weight * divergence)
    return sum(terms[1:], terms[0]) if terms else None


def check_mainnet_logits(mainnet_logits: torch.Tensor, batch_size: int, num_labels: int) -> None:
    """Reject recorded logits that do not fit the batch.

    Raises:
        ValueError: wrong dtype or shape.
    """
    if not mainnet_logits.is_floating_point() or mainnet_logits.shape != (batch_size, num_labels):
        raise ArgumentError(
            "mainnet_logits",
            f"must be floating-point with shape ({batch_size}, {num_labels}), got "
            f"{mainnet_logits.dtype} of shape {tuple(mainnet_logits.shape)}",
        )
