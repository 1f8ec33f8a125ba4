# SPDX-License-Identifier: Apache-2.0
from torch import nn


class ToyBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x, mask):
        mean = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return self.norm(x + self.mix(x + mean).relu())
