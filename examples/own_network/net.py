# SPDX-License-Identifier: Apache-2.0
"""A plain convolutional network of one's own; nothing in this file knows about SideNets.

It travels with the checkpoint, so it imports only what everyone who loads it has.
"""

from itertools import pairwise

import torch
from torch import nn


class SmallNet(nn.Module):
    """Four stages, each of which halves the picture.

    Args:
        num_classes (`int`, *optional*, defaults to 10): number of classes.
        width (`int`, *optional*, defaults to 16): channels of the first stage.
    """

    def __init__(self, num_classes: int = 10, width: int = 16):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
            for i, o in pairwise(sizes)
        )
        self.classifier = nn.Linear(sizes[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(rows, num_classes)` for images of shape `(rows, 3, height, width)`."""
        for stage in self.stages:
            images = stage(images)
        return self.classifier(images.mean((2, 3)))


def build() -> SmallNet:
    """Build the network, without weights: what a checkpoint calls before it loads them."""
    return SmallNet()
