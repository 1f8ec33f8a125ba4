# SPDX-License-Identifier: Apache-2.0
"""Adversarial examples of images, as pure functions: no pixel changes by more than ε, and all stay in [0, 1].

The objective is one number per row, so that a row's attack does not depend on the rest of its batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import BaseImageProcessor


# Pixels of shape (batch, channels, height, width) → the objective to increase, of shape (batch,).
Objective = Callable[[torch.Tensor], torch.Tensor]
# A processor's rounding, in units of the pixels' range.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Normalization:
    """Converts between pixels in [0, 1] and the values that a model reads.

    Args:
        mean (`torch.Tensor` of shape `(channels, 1, 1)`): subtracted from the pixels.
        std (`torch.Tensor` of shape `(channels, 1, 1)`): then divides them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, processor: BaseImageProcessor) -> "Normalization":
        """Return the normalization of an image processor.

        Raises:
            ValueError: the processor does not define its normalization.
        """
        if not getattr(processor, "do_normalize", True):
            return cls(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        found = [getattr(processor, name, None) for name in ("image_mean", "image_std")]
        if None in found:
            raise ValueError(f"the processor must have `image_mean` and `image_std`, got {type(processor).__name__}.")
        return cls(*(torch.tensor(values).view(-1, 1, 1) for values in found))

    def pixels(self, values: torch.Tensor) -> torch.Tensor:
        """Return the pixels in [0, 1] behind a model's inputs.

        Raises:
            ValueError: they lie outside, so the inputs were made differently.
        """
        pixels = values * self.std.to(values) + self.mean.to(values)
        low, high = pixels.min().item(), pixels.max().item()
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(f"pixels must be in [0, 1] before they are normalized, got {low:.4g} to {high:.4g}.")
        return pixels.clamp(0, 1)

    def values(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the values that the model reads."""
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)


def fgsm(objective: Objective, pixels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Take one step of size ε along the sign of the gradient (Goodfellow et al., arXiv 1412.6572).

    Args:
        objective (`Callable`): to increase.
        pixels (`torch.Tensor` of shape `(batch, channels, height, width)`): in [0, 1].
        epsilon (`float`): the maximum change of a pixel, as a fraction of its range.

    Returns:
        `torch.Tensor` of the shape of `pixels`.
    """
    return _step(objective, pixels, pixels, epsilon, epsilon)


def pgd(
    objective: Objective, pixels: torch.Tensor, epsilon: float, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """Take steps of 2.5 ε / `steps` from a random start, each projected into the ball (Madry et al., 1706.06083).

    Args:
        objective (`Callable`): to increase.
        pixels (`torch.Tensor` of shape `(batch, channels, height, width)`): in [0, 1].
        epsilon (`float`): the maximum change of a pixel, as a fraction of its range.
        steps (`int`): number of steps.
        generator (`torch.Generator`): for the random start, on the CPU, so that every device starts alike.

    Returns:
        `torch.Tensor` of the shape of `pixels`.
    """
    noise = 2 * torch.rand(pixels.shape, generator=generator, dtype=pixels.dtype) - 1
    moved = (pixels + epsilon * noise.to(pixels.device)).clamp(0, 1)
    for _ in range(steps):
        moved = _step(objective, pixels, moved, epsilon, 2.5 * epsilon / steps)
    return moved


def wrongness(exit_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy per row, summed over the given exits.

    Args:
        exit_logits (`torch.Tensor` of shape `(batch, exits, num_labels)`): of the exits to mislead.
        labels (`torch.LongTensor` of shape `(batch,)`): the correct classes.
    """
    # In double precision, here and below: in float32 a very confident exit has no gradient and would only look robust.
    targets = labels[:, None].expand(exit_logits.shape[:2])
    losses = F.cross_entropy(exit_logits.double().transpose(1, 2), targets, reduction="none")
    return losses.sum(1)


def doubt(exit_logits: torch.Tensor, temperatures: list[float]) -> torch.Tensor:
    """Return the entropy per row, summed over the given exits: high if no exit is confident.

    Args:
        exit_logits (`torch.Tensor` of shape `(batch, exits, num_labels)`): of the exits to make unconfident.
        temperatures (`list[float]`): one per exit.
    """
    divided = exit_logits.double() / torch.tensor(temperatures, device=exit_logits.device).view(-1, 1)
    logs = divided.log_softmax(-1)
    return -(logs.exp() * logs).sum((1, 2))


def _step(
    objective: Objective, pixels: torch.Tensor, moved: torch.Tensor, epsilon: float, size: float
) -> torch.Tensor:
    moved = moved.detach().requires_grad_()
    # Only for the pixels: parameters keep no gradient.
    (gradient,) = torch.autograd.grad(objective(moved).sum(), moved)
    moved = moved.detach() + size * gradient.sign()
    return moved.clamp(pixels - epsilon, pixels + epsilon).clamp(0, 1)
