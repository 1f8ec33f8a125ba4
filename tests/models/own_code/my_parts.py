# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn


class Stage(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        # Not in checkpoints, and not to be lost while they are loaded.
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x):
        return nn.functional.max_pool2d(self.scale * self.norm(self.conv(x)).relu(), 2)
