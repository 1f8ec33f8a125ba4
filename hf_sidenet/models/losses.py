# SPDX-License-Identifier: Apache-2.0
"""Training losses of the exits (Morisot, arXiv 2007.13512, §3; distillation after Hinton et al., arXiv 1503.02531)."""

import torch
from torch.nn import functional as F


def exit_loss(
    sidenet_logits: list[torch.Tensor],
    mainnet_logits: torch.Tensor | None,
    labels: torch.Tensor | None,
    teacher_logits: torch.Tensor | None = None,
    *,
    alpha: list[float],
    distillation_weight: float = 0.0,
    distillation_temperature: float = 1.0,
    teach_mainnet: bool = False,
) -> torch.Tensor | None:
    """`L_M + Σ α_i · L_Si` over the exits that were computed.

    Args:
        sidenet_logits (`list[torch.Tensor]`): one tensor of shape `(batch, num_labels)` per SideNet.
        mainnet_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*):
            `None` when the MainNet's tail did not run; then there is no L_M.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Without labels only the distillation terms remain.
        teacher_logits (`torch.Tensor` of shape `(batch, num_labels)`, *optional*):
            What distillation teaches, by default `mainnet_logits`.
        alpha (`list[float]`): α of each SideNet.
        distillation_weight (`float`): w in `L_S = (1 − w) · CE + w · T² · KL`; needs one of the two.
        distillation_temperature (`float`): T.
        teach_mainnet (`bool`):
            `teacher_logits` teach the MainNet too: L_M has the form of L_S. It then stays near the classifier that
            these logits are from.

    Returns:
        `torch.Tensor` of shape `()`, or `None` when there is nothing to learn from.
    """
    exits = list(zip(alpha, sidenet_logits, strict=True))
    terms = []
    if teach_mainnet and teacher_logits is not None and mainnet_logits is not None and distillation_weight > 0:
        exits.append((1.0, mainnet_logits))
    elif labels is not None and mainnet_logits is not None:
        terms.append(cross_entropy(mainnet_logits, labels))
    if teacher_logits is None:
        teacher_logits = mainnet_logits
    for weight, logits in exits:
        if labels is not None:
            terms.append(weight * (1 - distillation_weight) * cross_entropy(logits, labels))
        if distillation_weight > 0:
            divergence = distillation(logits, teacher_logits, distillation_temperature)
            terms.append(weight * distillation_weight * divergence)
    return sum(terms) if terms else None


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in float32; rows labelled -100 do not count."""
    return F.cross_entropy(logits.float(), labels.view(-1).to(logits.device, torch.long))


def distillation(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """`T² · KL(teacher ‖ student)`, the teacher detached."""
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().to(logits.device).float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def check_labels(labels: torch.Tensor, batch_size: int, num_labels: int) -> None:
    """Refuse labels that cannot be class indices. Values are read on the CPU only, where that waits for nothing.

    Raises:
        ValueError: wrong dtype or number, or a value outside `[0, num_labels)` other than -100.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != batch_size:
        raise ValueError(
            f"`labels` must be one class index per row, {batch_size} integers, got shape {tuple(labels.shape)} of "
            f"{labels.dtype}."
        )
    if labels.device.type != "cpu" or torch.compiler.is_dynamo_compiling():
        return
    wrong = labels[(labels != -100) & ((labels < 0) | (labels >= num_labels))]
    if wrong.numel() > 0:
        raise ValueError(f"`labels` must be in [0, {num_labels}) or -100, got {wrong.flatten()[0].item()}.")


def check_mainnet_logits(mainnet_logits: torch.Tensor, batch_size: int, num_labels: int) -> None:
    """Refuse recorded logits that are not the MainNet's for this batch.

    Raises:
        ValueError: wrong dtype or shape.
    """
    if not mainnet_logits.is_floating_point() or mainnet_logits.shape != (batch_size, num_labels):
        raise ValueError(
            f"`mainnet_logits` must be floating point of shape ({batch_size}, {num_labels}), got "
            f"{mainnet_logits.dtype} of shape {tuple(mainnet_logits.shape)}."
        )
