# SPDX-License-Identifier: Apache-2.0
from torch import nn

from .my_parts import Stage


class MyNet(nn.Module):
    def __init__(self, width=8, num_classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stages = nn.Sequential(Stage(width), Stage(2 * width), Stage(4 * width))
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images):
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


def build():
    return MyNet()


def build_another():
    return MyNet(width=16)


def build_nothing():
    return "MyNet"
