# SPDX-License-Identifier: Apache-2.0
"""Models of the GPU tests: tiny ones and, since they are cheap there, full-size ones. Random, made in memory."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification

from hf_sidenet.models import BertWithSideNetForSequenceClassification, ResNetWithSideNetForImageClassification
from tests.models import tiny
from tests.models.naive import spread_out


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of the largest |logit|.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}
# Nobody is ever this sure: every exit is asked and no row leaves.
ALMOST_ONE = 1 - 1e-6


@dataclass(frozen=True)
class Case:
    """A MainNet, where its SideNets are, and inputs of a given number of rows."""

    name: str
    model_class: type
    mainnet: Callable
    exit_layers: tuple[int, ...]
    inputs: Callable

    def on(self, device, dtype="fp32", **kwargs):
        """A model of its own, whose SideNets differ in confidence, and 16 rows."""
        torch.manual_seed(0)
        mainnet = copy.deepcopy(self.mainnet()).to(device)
        inputs = {name: value.to(device) for name, value in self.inputs(16).items()}
        _settle(mainnet, inputs)
        model = self.model_class.from_mainnet(mainnet, exit_layers=list(self.exit_layers), **kwargs)
        model = spread_out(model, inputs).to(DTYPES[dtype])
        return model, {
            name: value.to(DTYPES[dtype]) if value.is_floating_point() else value for name, value in inputs.items()
        }


def _settle(mainnet, inputs):
    """BatchNorm statistics of real features: without, 50 random layers leave the range of fp16."""
    norms = [module for module in mainnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        mainnet.train()(**inputs)
    mainnet.eval()


def _texts(length, vocabulary):
    def inputs(rows):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(2, length + 1, (rows, 1), generator=generator)
        mask = (torch.arange(length) < lengths).long()
        return {
            "input_ids": torch.randint(3, vocabulary, (rows, length), generator=generator) * mask,
            "attention_mask": mask,
        }

    return inputs


def _images(size):
    """Patches of color, since pictures of plain noise are all alike to a MainNet."""

    def inputs(rows):
        patches = torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        return {"pixel_values": torch.nn.functional.interpolate(patches, (size, size))}

    return inputs


BERT, RESNET = BertWithSideNetForSequenceClassification, ResNetWithSideNetForImageClassification
CASES = {
    case.name: case
    for case in (
        Case("tiny BERT", BERT, cache(tiny.bert), (1, 3), _texts(9, 99)),
        Case("tiny ResNet", RESNET, cache(tiny.resnet), (1, 3), _images(32)),
        Case(
            "BERT-base",
            BERT,
            cache(lambda: BertForSequenceClassification(BertConfig(num_labels=3)).eval()),
            (4, 8),
            _texts(64, 30522),
        ),
        Case(
            "ResNet-50",
            RESNET,
            cache(lambda: ResNetForImageClassification(ResNetConfig(num_labels=3)).eval()),
            (1, 3),
            _images(224),
        ),
    )
}
